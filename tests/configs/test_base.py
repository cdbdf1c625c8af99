"""What a data set may be told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from align.configs.base import DatasetConfig, PreferenceData, TextData


@pytest.mark.parametrize("key", [{"split": "test"}, {"subset": "small"}, {"revision": "main"}, {"size": 3}])
def test_what_a_source_would_ignore_is_refused(key: dict[str, object]) -> None:
    (name,) = key
    with pytest.raises(ValidationError, match=f"`{name}` does not apply to `path`"):
        DatasetConfig.model_validate({"path": "rows.jsonl", **key})


@pytest.mark.parametrize("template", ["text", "", "a text (with {} in it)"])
def test_a_text_without_a_column_would_be_the_same_in_all_rows(template: str) -> None:
    dataset = DatasetConfig(path="rows.csv")
    with pytest.raises(ValidationError, match=r"names no column, .* write it in braces, '\{text\}'"):
        TextData(dataset=dataset, text=template)
    with pytest.raises(ValidationError, match="names no column"):
        PreferenceData(dataset=dataset, prompt="Say something.", chosen="{chosen}", rejected=template)


def test_what_a_source_understands_is_taken() -> None:
    assert DatasetConfig(hub="org/name", split="test", subset="small", revision="main").split == "test"
    assert DatasetConfig(generator="dialogues", split="test", size=3).size == 3
    with pytest.raises(ValidationError, match="`revision` does not apply to `generator`, only to `hub`: remove it"):
        DatasetConfig(generator="dialogues", revision="main")
    with pytest.raises(ValidationError, match="`size` does not apply to `hub`, only to `generator`"):
        DatasetConfig(hub="org/name", size=3)


@pytest.mark.parametrize("sources", [{}, {"path": "rows.jsonl", "hub": "org/name"}])
def test_a_data_set_has_one_source(sources: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="needs exactly one of path, hub, generator, artifact"):
        DatasetConfig.model_validate({**sources, "split": "train"})
