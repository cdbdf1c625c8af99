"""References, names and aliases that people type."""

from __future__ import annotations

import pytest

from align.errors import UsageError
from align.registry import references


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("sft", ("sft", "latest")),
        ("sft@latest", ("sft", "latest")),
        ("sft@v12", ("sft", "v12")),
        ("sft-2.b@production", ("sft-2.b", "production")),
    ],
)
def test_parse(reference: str, expected: tuple[str, str]):
    assert references.parse(reference) == expected


@pytest.mark.parametrize(
    "reference", ["", "@v1", "sft@", "sft@@v1", "SFT", "../x", "a/b@v1", "sft@v1\n", "sft@../x", "hub:a"]
)
def test_parse_refuses(reference: str):
    with pytest.raises(UsageError, match="does not refer to an artifact"):
        references.parse(reference)


@pytest.mark.parametrize("alias", ["latest", "v1", "v01", "Best", "a/b", "", "."])
def test_aliases_refused(alias: str):
    with pytest.raises(UsageError, match="cannot be an alias"):
        references.check_alias(alias)


def test_suggestion_lists_what_there_is():
    assert references.suggestion("stf", ["base", "sft"]) == " Did you mean 'sft'? There is: base, sft."
    assert references.suggestion("x", [f"v{i}" for i in range(20)]).endswith("v11, and 8 more.")
