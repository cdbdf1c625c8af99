"""What two artifacts differ in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from align.registry import Artifact, InputRecord
from align.registry.comparison import PARTS, differences

Publish = Callable[..., Artifact]


def test_equal_artifacts_do_not_differ(publish: Publish):
    assert differences(publish(), publish(force=True)) == {part: {} for part in PARTS}


def test_each_part_is_compared_key_by_key(publish: Publish, source: Path):
    one = publish(
        config={"train": {"learning_rate": 0.1, "steps": 3}, "models": ["a", "b"], "gone": None},
        metrics={"loss": {"value": 1.0, "low": 0.5}},
        environment={"data": {"data.0.dataset": "abc"}, "packages": {"torch": "2.12"}, "python": "3"},
        inputs={"model": InputRecord(reference="base@v1", digest="1")},
    )
    (source / "config.json").write_text("{}")
    (source / "merges.txt").unlink()
    (source / "new.json").write_text("{}")
    other = publish(
        config={"train": {"learning_rate": 0.2, "steps": 3}, "models": ["a", "c", "d"], "new": {}},
        metrics={"loss": {"value": 2.0, "low": 0.5}},
        environment={"data": {"data.0.dataset": "abd"}, "packages": {"torch": "2.13"}, "python": "3"},
        inputs={"model": InputRecord(reference="base@v2", digest="2")},
    )
    found = differences(one, other)
    assert found["config"] == {
        "train.learning_rate": (0.1, 0.2),
        "models.1": ("b", "c"),
        "models.2": (None, "d"),
        "new": (None, {}),
    }
    assert found["metrics"] == {"loss.value": (1.0, 2.0)}
    assert found["data"] == {"data.0.dataset": ("abc", "abd")}
    assert found["environment"] == {"packages.torch": ("2.12", "2.13")}
    assert found["inputs"] == {"model.reference": ("base@v1", "base@v2"), "model.digest": ("1", "2")}
    assert found["files"].keys() == {"config.json", "merges.txt", "new.json"}
    assert found["files"]["merges.txt"][1] is None
