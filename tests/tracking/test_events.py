from __future__ import annotations

import json
from pathlib import Path

from align.tracking import EventLog
from align.workspace import Interval


def test_one_object_a_line_and_intervals_in_full(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.log({"train/loss": 1.5}, step=10)
    log.table("samples", ["prompt", "score"], [["hé", 0.5]], step=10)
    log.summary({"auc": Interval(0.9, 0.8, 0.95, 40)})
    log.finish()
    log.finish()
    lines = [json.loads(line) for line in (tmp_path / "deep" / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line.pop("event") for line in lines] == ["metrics", "table", "summary", "finish"]
    assert all(line.pop("time").endswith("+00:00") for line in lines)
    assert lines == [
        {"step": 10, "metrics": {"train/loss": 1.5}},
        {"key": "samples", "step": 10, "columns": ["prompt", "score"], "rows": [["hé", 0.5]]},
        {"metrics": {"auc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}}},
        {"exit_code": 0},
    ]


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "metrics", "step": 1}\n{"event": "met')
    EventLog(path).log({"loss": 1.0}, step=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
