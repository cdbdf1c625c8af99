"""`align reward ls | check | score | evaluate | compare | serve`: reward models, looked at by themselves."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align.cli.commands import AsJson, Command, Debug, RegistryOption, console, print_json
from align.errors import AlignError, UsageError

if TYPE_CHECKING:
    from align.registry import Registry
    from reward_models import CheckedModel

_TEXT_FILES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md")
TOKEN = "ALIGN_REWARD_TOKEN"

app = typer.Typer(
    help="Reward models: list, check, score, evaluate, compare, serve.", no_args_is_help=True, rich_markup_mode=None
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An artifact (name, name@v2), a directory, hub:org/name, module:attribute, an address, a YAML file, or "
        "what a recipe's `reward:` may say: '{model: rules, length: {target: 80}}'.",
    ),
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A .csv, .json or .jsonl file, or a recipe's data set: '{path: x.csv}'.")
]
Response = Annotated[str | None, typer.Option("--response", metavar="TEMPLATE", help="Of the text to score: '{text}'.")]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEMPLATE", help="Of its prompt: '{question}'.")]
Reference = Annotated[
    str | None, typer.Option("--reference", metavar="TEMPLATE", help="Of what it is compared with: '{summary}'.")
]
Output = Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Also write files there.")]


@app.command("ls", cls=Command)
def list_rewards(registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List what can be a reward here: built-in ones, installed plugins, artifacts."""
    from align.rewards import specs

    found = specs.available(_open(registry))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    _print_table(("reward", "source", ""), [(one.name, one.source, one.detail) for one in found])
    console().print(
        "and: a directory, hub:org/name, module:attribute, http://host:port, {combine: …, of: […]}", markup=False
    )


@app.command(cls=Command)
def check(
    model: Model,
    probes: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="'BETTER|WORSE'", help="The first must score higher; may be given again."),
    ] = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Is it fit to steer training? Contract, determinism, polarity; batch size and order change nothing.

    Exit code 1 if a check fails.
    """
    from align.rewards import checks

    outcomes = checks.run(_load(model, registry), [_probe(text) for text in probes or ()])
    if as_json:
        print_json([asdict(one) for one in outcomes])
    else:
        _print_table(("check", "state", ""), [(one.check, one.state, one.message) for one in outcomes])
    if any(checks.failed(outcomes)):
        raise typer.Exit(AlignError.exit_code)


@app.command(cls=Command)
def score(
    model: Model,
    source: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="JSON lines or plain lines (default: standard input).")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Each line is a response, whatever it looks like.")] = False,
    registry: RegistryOption = None,
    debug: Debug = False,
) -> None:
    """Score rows: one {"prompt": …, "response": …} or one response per line. Prints them with their `score`."""
    from align.data import readers
    from align.progress import track
    from align.rewards import scoring

    if source is not None:
        rows = scoring.read(readers.lines(source), str(source), plain=plain)
    elif sys.stdin is None:
        raise UsageError("standard input is closed: name a FILE")
    else:
        rows = scoring.read(readers.decoded(sys.stdin.buffer, "standard input"), "standard input", plain=plain)
    loaded = _load(model, registry)
    with track("score", total=len(rows)) as advance:
        for row in scoring.score(loaded, rows, advance):
            print(json.dumps(row, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


@app.command(cls=Command)
def evaluate(
    model: Model,
    rows: Data,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Of the label (default: label).")
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option("--positive", metavar="VALUE", help="A label that should score high (default: the model's own)."),
    ] = None,
    response: Response = None,
    chosen: Annotated[
        str | None, typer.Option("--chosen", metavar="TEMPLATE", help="The better of a pair (default: {chosen}).")
    ] = None,
    rejected: Annotated[
        str | None, typer.Option("--rejected", metavar="TEMPLATE", help="The other (default: {rejected}).")
    ] = None,
    prompt: Prompt = None,
    reference: Reference = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="COLUMN", help="Measure again for each value of this column.")
    ] = None,
    terms: Annotated[
        str | None, typer.Option("--terms", metavar="WORDS", help="Identity terms: a file, one per line, or a,b,c.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="A text that scores this or more counts as good.")
    ] = None,
    output: Output = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure it on labelled texts, or on preference pairs (columns `chosen` and `rejected`).

    With 95 % intervals. --output DIR writes metrics.json, scores.jsonl and, for probabilities, reliability.png/.svg.
    """
    from align.rewards import data, evaluation

    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"--threshold {threshold}: must be a finite number")
    selected, place = data.select(rows)
    _make(output)
    if chosen or rejected or data.are_pairs(selected):
        only_labels: dict[str, object] = {
            "--label": label,
            "--positive": positive,
            "--response": response,
            "--terms": terms,
            "--threshold": threshold,
        }
        if given := [option for option, value in only_labels.items() if value is not None]:
            raise UsageError(f"{place} holds pairs (chosen, rejected), to which {given[0]} does not apply: remove it")
        pairs = data.pairs(selected, place, prompt, reference, chosen or "{chosen}", rejected or "{rejected}")
        result = evaluation.preferred(_load(model, registry), pairs, by=by or ())
    else:
        texts = data.texts(selected, place, response, prompt, reference)
        words = _terms(terms)
        loaded = _load(model, registry)
        result = evaluation.labelled(
            loaded, texts, label or "label", positive=positive or (), threshold=threshold, by=by or (), terms=words
        )
    scores = result.pop("scores")
    if output is not None:
        try:
            _write_evaluation(output, result, scores)
        except OSError as error:
            raise AlignError(f"--output {output}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json(result)
    else:
        _print_evaluation(result)


@app.command(cls=Command)
def compare(
    first: Model,
    second: Model,
    rows: Data,
    response: Response = None,
    prompt: Prompt = None,
    reference: Reference = None,
    most: Annotated[int, typer.Option("--most", min=0, help="Disagreements to list.")] = 10,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Do two rewards put responses in the same order? Rank correlations, and where they disagree most."""
    from align.rewards import comparison, data

    texts = data.texts(*data.select(rows), response, prompt, reference)
    result = comparison.compare(_load(first, registry), _load(second, registry), texts, most=most)
    if as_json:
        print_json(result)
        return
    names = [one["name"] for one in result["models"]]
    _print_table(
        (f"{names[0]} and {names[1]} on {result['rows']} rows", ""),
        [("Spearman's rank correlation", _cell(result["spearman"])), ("Kendall's tau", _cell(result["kendall"]))],
    )
    _print_table(
        ("row", *names, "response"),
        [
            (str(one["row"]), *map(_scored_as, one["scores"], one["percentiles"]), _clipped(one["response"]))
            for one in result["disagreements"]
        ],
    )


@app.command(cls=Command)
def serve(
    model: Model,
    host: Annotated[str, typer.Option("--host", help="Any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option("--token-env", metavar="NAME", help=f"Variable with the token (default: {TOKEN}).")
    ] = None,
    registry: RegistryOption = None,
    debug: Debug = False,
) -> None:
    """Serve it over HTTP, for `reward: http://127.0.0.1:8000`. Ctrl-C stops it. Needs the extra `serve`."""
    import os

    name = token or TOKEN
    secret = os.environ.get(name)
    if secret is not None and not (secret.isascii() and secret.isprintable() and secret.strip() == secret != ""):
        raise UsageError(f"${name} must be printable ASCII without space around it")
    if token is not None and secret is None:
        raise UsageError(f"--token-env {token}: the environment has no such variable")
    try:
        from align.rewards import checks, serving
        from reward_models import RewardError
    except ImportError as error:
        raise UsageError(f"{error}; install the extra: pip install 'align-rlhf[serve]'") from error
    loaded = _load(model, registry)
    try:
        outcome = checks.polarity(loaded)  # here, as a client knows nothing of its probes
    except RewardError as error:
        raise AlignError(f"{loaded.name} is not served: {error}") from error
    if outcome.state == "failed":
        raise AlignError(f"{loaded.name} is not served: {outcome.message}; is the right label the positive one?")
    serving.serve(loaded, host=host, port=port, token=secret)


def _open(path: str | None) -> Registry:
    from align.pipeline import open_registry

    return open_registry(path=path)


def _load(model: str, registry: str | None) -> CheckedModel:
    from align.rewards import specs

    return specs.load(model, _open(registry))


def _probe(text: str) -> tuple[str, str]:
    better, bar, worse = text.partition("|")
    if not bar:
        raise UsageError(f"--probe {text!r}: write 'a better response|a worse one'")
    return better, worse


def _terms(given: str | None) -> list[str]:
    from align.data import readers

    if given is None:
        return []
    words: Iterable[str] = given.split(",")
    if "," not in given and Path(given).is_file():
        words = readers.lines(Path(given))
    elif "," not in given and (given.endswith(_TEXT_FILES) or given.startswith(("/", "./", "../", "~"))):
        raise UsageError(f"--terms {given}: there is no such file (looked from {Path.cwd()})")
    found = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not found:
        raise UsageError(f"--terms {given}: it holds no term")
    return found


def _make(directory: Path | None) -> None:
    """Before anything is scored: all of it would be lost at the end."""
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {directory}: the directory cannot be created: {error.strerror}") from error


def _write_evaluation(directory: Path, result: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> None:
    from align.rewards import plots

    (directory / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    lines = [json.dumps(one) + "\n" for one in scores]
    (directory / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
    if "reliability" in result:
        error = result["metrics"]["classwise_calibration_error"]["value"]
        paths = [directory / "reliability.png", directory / "reliability.svg"]
        plots.reliability(result["reliability"], error, result["model"]["name"], paths)


def _print_evaluation(result: Mapping[str, Any]) -> None:
    good = f", {result['good_rows']} of them good" if "good_rows" in result else ""
    metrics = [(name.replace("_", " "), _cell(one)) for name, one in result["metrics"].items()]
    metrics += [
        (f"length, {name.replace('_', ' ')}", _cell(one)) for name, one in result["length"].items() if one is not None
    ]
    _print_table((f"{result['model']['name']} on {result['data']}", f"{result['rows']} rows{good}"), metrics)
    if "confusion" in result:
        names = list(result["confusion"])
        counts = [(f"is {name}", *(str(row[one]) for one in names)) for name, row in result["confusion"].items()]
        _print_table(("", *(f"said {name}" for name in names)), counts)
    for column, groups in result["slices"].items():
        measures = list(dict.fromkeys(key for group in groups.values() for key in group))
        cells = [(value, *(_cell(group.get(key)) for key in measures)) for value, group in groups.items()]
        _print_table((column, *(key.replace("_", " ") for key in measures)), cells)
    if result.get("terms"):
        columns = ("rows", "good", "subgroup", "bpsn", "bnsp")
        cells = [(term, *(_cell(one[column]) for column in columns)) for term, one in result["terms"].items()]
        _print_table(("mentions", *columns), cells)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in header:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.encode(errors="replace").decode()) for cell in row))
    console().print(table)


_NO_WIDTH = 1e-9
"""Sums of the same numbers in another order differ by less."""


def _cell(measured: Any) -> str:
    if measured is None:
        return "-"
    if isinstance(measured, Mapping):
        between = f" [{measured['low']:.3f}, {measured['high']:.3f}]"
        return f"{measured['value']:.3f}{between if measured['high'] - measured['low'] > _NO_WIDTH else ''}"
    return f"{measured:.3f}" if isinstance(measured, float) else str(measured)


def _scored_as(score: float, percentile: float) -> str:
    return f"{score:.3f} (rank {percentile:.0%})"


def _clipped(text: str, most: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
