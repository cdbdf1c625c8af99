"""`align reward`: what each command prints, its exit codes, its files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from align.cli import app, reward
from align.registry import Registry

Align = Callable[..., Result]

REWARDS = """\
def length(prompts, responses):
    return [float(len(response)) for response in responses]

def constant(prompts, responses):
    return [0.5] * len(responses)

def broken(prompts, responses):
    return [None] * len(responses)
"""
ROWS = [
    {"text": f"w{4 + n % 40} w{4 + n * 7 % 40}", "label": ("toxic", "nontoxic")[n % 2], "group": "ab"[n % 3 == 0]}
    for n in range(60)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path) -> Path:
    """A working directory with rewards, data, and a registry that holds a classifier."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("cli_rewards", None)
    (tmp_path / "cli_rewards.py").write_text(REWARDS, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    pairs = [{"prompt": "p", "chosen": f"w{4 + n}", "rejected": f"w{14 + n} w5"} for n in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    shutil.copytree(tiny_classifier, tmp_path / "files")
    about = {"inputs": {}, "config": {}, "metrics": {}, "environment": {}}
    Registry("registry").publish(tmp_path / "files", name="toxicity", kind="reward", fingerprint="f" * 64, **about)
    return tmp_path


def test_ls(place: Path, run_align: Align) -> None:
    listed = json.loads(run_align("reward", "ls", "--json").stdout)
    assert {"name": "toxicity@v1", "source": "artifact"}.items() <= listed[-1].items()
    assert "rules" in {one["name"] for one in listed if one["source"] == "built-in"}
    assert "toxicity@v1" in run_align("reward", "ls").stdout
    assert json.loads(run_align("reward", "ls", "--json", "--registry", "other").stdout) == listed[:-1]


def test_check_passes_fails_and_is_refused(place: Path, run_align: Align) -> None:
    result = run_align("reward", "check", "toxicity", "--json")
    assert result.exit_code == 0
    assert {one["state"] for one in json.loads(result.stdout)} == {"passed", "skipped"}
    result = run_align("reward", "check", "cli_rewards:length", "--probe", "longer|short", "--probe", "no|never")
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines() if "failed" in line] == [["polarity", "failed"]]
    assert run_align("reward", "check", "cli_rewards:constant").exit_code == 1
    assert run_align("reward", "check", "cli_rewards:length", "--probe", "no bar").exit_code == 2
    result = run_align("reward", "check", "toxicty")
    assert result.exit_code == 2
    assert "Did you mean 'toxicity'?" in result.stderr


def test_score_takes_rows_lines_and_a_file(place: Path, run_align: Align) -> None:
    def piped(text: str, *options: str) -> Result:
        return CliRunner().invoke(app, ["reward", "score", "cli_rewards:length", *options], input=text)

    result = piped('{"response": "abc", "id": 1}\n{"response": "ü"}\n')
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"response": "abc", "id": 1, "score": 3.0},
        {"response": "ü", "score": 1.0},
    ]
    assert "score  2/2" in result.stderr
    assert json.loads(piped("hello\n").stdout) == {"response": "hello", "score": 5.0}
    (place / "in.txt").write_text("{hello\n", encoding="utf-8")
    result = run_align("reward", "score", "cli_rewards:length", "in.txt")
    assert result.exit_code == 2
    assert "in.txt:1: not JSON" in result.stderr
    assert json.loads(run_align("reward", "score", "cli_rewards:length", "in.txt", "--plain").stdout)["score"] == 6.0
    assert run_align("reward", "score", "cli_rewards:broken", "in.txt", "--plain").exit_code == 1
    assert run_align("reward", "score", "cli_rewards:length", "missing.txt").exit_code == 2


def test_score_writes_json_whatever_the_terminal_can_show(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "align", "reward", "score", "cli_rewards:length"],
        input="grüße\n",
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
    )
    assert done.stdout == '{"response": "gr\\u00fc\\u00dfe", "score": 5.0}\n', done.stderr


def test_score_reads_utf_8_with_and_without_a_mark_and_nothing_else(place: Path, run_align: Align) -> None:
    def piped(content: bytes | None) -> Result:
        return CliRunner().invoke(app, ["reward", "score", "cli_rewards:length"], input=content)

    row = b'\xef\xbb\xbf{"response": "abc"}\n'
    (place / "marked.jsonl").write_bytes(row)
    for result in (run_align("reward", "score", "cli_rewards:length", "marked.jsonl"), piped(row)):
        assert json.loads(result.stdout) == {"response": "abc", "score": 3.0}
    (place / "latin.txt").write_bytes(b"one\n\xe4\n")
    for result, source in {
        run_align("reward", "score", "cli_rewards:length", "latin.txt"): "latin.txt",
        piped(b"one\n\xe4\n"): "standard input",
    }.items():
        assert result.exit_code == 2
        assert f"{source}:2: not UTF-8" in result.stderr


def test_score_without_standard_input() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -m align reward score "{model: rules, repetition: {}}" <&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: standard input is closed: name a FILE\n")


def test_evaluate_pairs_of_other_columns(place: Path, run_align: Align) -> None:
    turn = {"role": "assistant"}
    rows = [{"better": [turn | {"content": "w" * (n + 2)}], "worse": [turn | {"content": "w"}]} for n in range(12)]
    (place / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = ["--chosen", "{better.0.content}", "--rejected", "{worse.0.content}"]
    result = run_align("reward", "evaluate", "cli_rewards:length", "chats.jsonl", *columns, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["pair_accuracy"]["value"] == 1.0


def test_evaluate_labels(place: Path, run_align: Align) -> None:
    arguments = ["evaluate", "toxicity", "rows.jsonl", "--by", "group", "--terms", "w4,w11"]
    result = run_align("reward", *arguments, "--json", "--output", "out")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    calibration = {"calibration_error", "classwise_calibration_error"}
    assert found["metrics"].keys() == {"accuracy", "macro_f1", "roc_auc", "pr_auc", *calibration}
    assert (found["rows"], found["good_rows"]) == (60, 30)
    assert found["slices"]["group"].keys() == {"a", "b"}
    assert found["terms"].keys() == {"w4", "w11"}
    assert json.loads((place / "out" / "metrics.json").read_text()) == found
    scores = [json.loads(line) for line in (place / "out" / "scores.jsonl").read_text().splitlines()]
    assert [one["row"] for one in scores] == list(range(1, 61))
    assert {path.name for path in (place / "out").iterdir()} == {
        "metrics.json",
        "scores.jsonl",
        "reliability.png",
        "reliability.svg",
    }
    shown = run_align("reward", *arguments).stdout
    for expected in ("macro f1", "calibration error", "length, among good", "is bad", "mentions", "group"):
        assert expected in shown


def test_two_rows_give_no_interval(place: Path, run_align: Align) -> None:
    """Resamples of two rows that are told apart all say the same."""
    two = [{"text": "kind", "label": "nontoxic"}, {"text": "rude", "label": "toxic"}]
    (place / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in two))
    rules = "{model: rules, banned: {phrases: [rude]}}"
    shown = run_align("reward", "evaluate", rules, "two.jsonl", "--label", "label", "--positive", "nontoxic").stdout
    assert " ".join(next(line for line in shown.splitlines() if "roc auc" in line).split()) == "roc auc 1.000"
    assert reward._cell({"value": 1.0, "low": 1 - 2e-16, "high": 1.0}) == "1.000"  # summed in another order


def test_evaluate_pairs(place: Path, run_align: Align) -> None:
    found = json.loads(run_align("reward", "evaluate", "cli_rewards:length", "pairs.jsonl", "--json").stdout)
    assert found["metrics"]["pair_accuracy"]["value"] == 0.0
    for option in ("--terms", "--label"):
        result = run_align("reward", "evaluate", "cli_rewards:length", "pairs.jsonl", option, "a")
        assert result.exit_code == 2
        assert f"holds pairs (chosen, rejected), to which {option} does not apply" in result.stderr
    assert "pair accuracy" in run_align("reward", "evaluate", "cli_rewards:length", "pairs.jsonl").stdout


def test_terms_from_a_marked_file_and_from_a_long_list(place: Path, run_align: Align) -> None:
    (place / "terms").write_bytes(b"\xef\xbb\xbfw4\nw11\n")
    many = ",".join(f"w{n}" for n in range(4, 80))
    for given, expected in {"terms": ["w4", "w11"], many: many.split(",")}.items():
        result = run_align("reward", "evaluate", "toxicity", "rows.jsonl", "--terms", given, "--json")
        assert list(json.loads(result.stdout)["terms"]) == expected


def test_an_output_that_cannot_be_is_refused_before_anything_is_scored(place: Path, run_align: Align) -> None:
    (place / "taken").write_text("mine")
    result = run_align("reward", "evaluate", "toxicity", "rows.jsonl", "--output", "taken")
    assert result.exit_code == 2
    assert "score" not in result.stderr
    assert (place / "taken").read_text() == "mine"


def test_pairs_are_measured_with_a_reference(place: Path, run_align: Align) -> None:
    arguments = ["evaluate", "{model: overlap}", "pairs.jsonl", "--reference", "{chosen}", "--json"]
    assert json.loads(run_align("reward", *arguments).stdout)["metrics"]["pair_accuracy"]["value"] == 1.0


def test_evaluate_says_what_is_missing(place: Path, run_align: Align) -> None:
    (place / "latin.txt").write_bytes(b"\xe4\n")
    for arguments, message in {
        ("cli_rewards:length", "rows.jsonl"): "which should score high? Say --positive",
        ("toxicity", "rows.jsonl", "--label", "lable"): "did you mean 'label'?",
        ("toxicity", "gone.jsonl"): "data file gone.jsonl does not exist",
        ("toxicity", "rows.jsonl", "--terms", " , "): "it holds no term",
        ("toxicity", "rows.jsonl", "--terms", "nofile.txt"): "--terms nofile.txt: there is no such file",
        ("toxicity", "rows.jsonl", "--terms", "latin.txt"): "latin.txt:1: not UTF-8",
        ("toxicity", "rows.jsonl", "--threshold", "nan"): "--threshold nan: must be a finite number",
        ("toxicity", "rows.jsonl", "--output", "latin.txt"): "--output latin.txt: the directory cannot be created",
    }.items():
        result = run_align("reward", "evaluate", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


def test_compare(place: Path, run_align: Align) -> None:
    arguments = ["compare", "toxicity", "{model: rules, length: {target: 9}}", "rows.jsonl", "--most", "3"]
    found = json.loads(run_align("reward", *arguments, "--json").stdout)
    assert len(found["disagreements"]) == 3
    assert found["spearman"]["low"] <= found["spearman"]["value"] <= found["spearman"]["high"]
    shown = run_align("reward", *arguments).stdout
    assert "Spearman's rank correlation" in shown
    assert ROWS[found["disagreements"][0]["row"] - 1]["text"] in shown
    assert run_align("reward", "compare", "toxicity", "cli_rewards:constant", "rows.jsonl").exit_code == 2


def test_serve_refuses_before_it_listens(place: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIGN_REWARD_TOKEN", raising=False)
    for arguments, message in {
        ("--host", "0.0.0.0"): "set a token",
        ("--token-env", "NO_SUCH"): "--token-env NO_SUCH: the environment has no such variable",
        ("--host", "no.such.host.invalid"): "--host no.such.host.invalid",
    }.items():
        result = run_align("reward", "serve", "cli_rewards:length", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    monkeypatch.setenv("ALIGN_REWARD_TOKEN", "")
    assert run_align("reward", "serve", "cli_rewards:length").exit_code == 2


def test_what_is_upside_down_is_not_served(place: Path, run_align: Align) -> None:
    result = run_align("reward", "serve", "{model: 'cli_rewards:length', probes: [[a, a longer one]]}", "--port", "0")
    assert result.exit_code == 1
    assert "is not served: the better response scores higher in 0 of 1 probes" in result.stderr
    result = run_align("reward", "serve", "{model: 'cli_rewards:broken', probes: [[a, b]]}", "--port", "0")
    assert result.exit_code == 1
    assert "is not served: reward model cli_rewards:broken: score 1 of 2 is None" in result.stderr


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from align.cli import app\n"
        "try: app(['reward', 'evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'sklearn', 'fastapi', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "--terms" in done.stdout
