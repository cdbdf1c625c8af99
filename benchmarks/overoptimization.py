"""Over-optimisation on the embedded corpus: label budgets, ensembles, best-of-n, over several seeds.

    python benchmarks/overoptimization.py --registry overoptimization      # goes on where it stopped

Runs `recipes/overoptimization.yaml` once for every seed and setting. A seed draws the labels, the proxies' heads and
order, and PPO's samples; base, tuned model and gold scorer are the same throughout. Seeds are the independent units:
intervals are Student's t over them, and differences are paired by seed. Writes results/overoptimization.json and the
figure docs/images/overoptimization.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from scipy.stats import t as student

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "overoptimization.yaml"
BUDGETS = {100: 60, 700: 100, 5000: 240}
"""Labels -> optimizer steps of the proxy."""
FEWEST = min(BUDGETS)
CONDITIONS = {
    **{f"{labels} labels": ("ppo", labels) for labels in BUDGETS},
    f"{FEWEST} labels, minimum of 3": ("ppo_minimum", FEWEST),
    f"{FEWEST} labels, mean - std of 3": ("ppo_mean_minus_std", FEWEST),
}
GROUPS = (1, 2, 4, 8, 16, 32)
PROMPTS = 60
SCORES = {"proxy": "eval/objective/scores", "gold": "eval/judge/scores"}

Evaluations = list[dict[str, float]]
Method = Literal["rl", "best_of_n"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("overoptimization"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--only-run", action="store_true", help="some seeds here, others elsewhere: no report yet")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "overoptimization.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "images" / "overoptimization.png")
    parser.add_argument("--again", action="store_true", help="runs nothing: figures anew from the evaluations in --out")
    args = parser.parse_args()
    if args.again:
        kept = json.loads(args.out.read_text(encoding="utf-8"))
        report(args.seeds, kept["runs"], kept["best_of_n"], args.out, args.figure)
        return
    runs: dict[str, dict[int, Evaluations]] = {condition: {} for condition in CONDITIONS}
    steered: dict[str, dict[int, dict[str, Any]]] = {condition: {} for condition in CONDITIONS}
    for seed in args.seeds:
        for labels in BUDGETS:
            stages = sorted({stage for stage, budget in CONDITIONS.values() if budget == labels})
            made = run(args.registry, seed, labels, stages)
            for condition, (stage, budget) in CONDITIONS.items():
                if budget == labels:
                    lines = (made[stage] / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
                    runs[condition][seed] = [json.loads(line) for line in lines]
                    steered[condition][seed] = reward_of(stage, made)
            sft = made["sft"]
    if args.only_run:
        return
    report(args.seeds, runs, best_of_n(sft, steered), args.out, args.figure)


def report(
    seeds: Sequence[int],
    runs: Mapping[str, Mapping[Any, Evaluations]],
    drawn: Mapping[str, Any],
    out: Path,
    figure: Path,
) -> None:
    """Write the raw file and the figure, and print the tables."""
    found = {
        "seeds": seeds,
        "ppo": {condition: summary(list(of_seed.values())) for condition, of_seed in runs.items()},
        "differences": differences(runs),
        "best_of_n": drawn,
        "runs": runs,
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(runs, drawn, figure)
    print(markdown(found))


def run(registry: Path, seed: int, labels: int, stages: Sequence[str]) -> dict[str, Path]:
    """The recipe with these labels, and where its artifacts lie."""
    settings = {
        "datasets.gold_labels.seed": seed,
        "datasets.gold_labels.parts.train": labels,
        **{f"stages.{stage}.seed": seed for stage in ("ppo", "ppo_minimum", "ppo_mean_minus_std")},
        **{f"stages.{name}.seed": 10 * seed + index for index, name in enumerate(("proxy", "proxy_2", "proxy_3"))},
        **{f"stages.{name}.train.max_steps": BUDGETS[labels] for name in ("proxy", "proxy_2", "proxy_3")},
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [str(RECIPE), *stages, "--registry", str(registry), *overrides]
    align = [sys.executable, "-m", "align"]
    subprocess.run([*align, "run", *command, "--wandb", "disabled"], check=True, stdout=subprocess.DEVNULL)
    planned = subprocess.run([*align, "plan", *command, "--json"], check=True, capture_output=True, text=True)
    references = {step["stage"]: step["artifact"] for step in json.loads(planned.stdout)}
    return {
        stage: registry / "artifacts" / name / version / "files"
        for stage, (name, version) in ((stage, reference.split("@")) for stage, reference in references.items())
    }


def reward_of(stage: str, made: Mapping[str, Path]) -> dict[str, Any]:
    """What steered that policy, as `reward_models.load` reads it."""
    members = [{"model": str(made["proxy"]), "input": "prompt_and_response"}]
    if stage == "ppo":
        return members[0]
    members += [{"model": str(made[name]), "input": "prompt_and_response"} for name in ("proxy_2", "proxy_3")]
    return {"combine": stage.removeprefix("ppo_"), "of": members}


def summary(runs: Sequence[Evaluations]) -> dict[str, Any]:
    """Means over seeds, with 95 % intervals, of where proxy and gold end and where gold is highest."""
    figures = [of_run(run) for run in runs]
    means = {name: interval([figure[name] for figure in figures]) for name in figures[0]}
    return {**means, "gold_lost_after_turn": lost_after_turn(runs)}


def lost_after_turn(runs: Sequence[Evaluations]) -> dict[str, float]:
    """Gold at the evaluation where its mean over the other seeds is highest, less gold at the end, seed by seed.

    A seed that has a say in the choice is picked by its noise, and stands above the end by noise alone. Of one seed
    nothing is known (NaN).
    """
    if len(runs) == 1:
        return interval([math.nan])
    curves = [gains(run, "gold") for run in runs]
    lost = []
    for seed, curve in enumerate(curves):
        others = curves[:seed] + curves[seed + 1 :]
        turn = max(range(len(curve)), key=lambda place: statistics.fmean(other[place] for other in others))
        lost.append(curve[turn] - curve[-1])
    return interval(lost)


def of_run(run: Evaluations) -> dict[str, float]:
    """Gains since the first evaluation, and the curve of Gao et al. that is nearest to gold's."""
    from align.metrics.overoptimization import fitted

    gold = gains(run, "gold")
    best = max(range(len(gold)), key=gold.__getitem__)
    curve = fitted("rl", [math.sqrt(max(0.0, row["eval/objective/kl"])) for row in run], gold)
    return {
        "proxy_end": gains(run, "proxy")[-1],
        "gold_end": gold[-1],
        "gold_highest": gold[best],
        "gold_lost_after_highest": gold[best] - gold[-1],
        "gold_lost_along_a_line": lost_along_a_line(gold),
        "kl_at_highest": run[best]["eval/objective/kl"],
        "kl_end": run[-1]["eval/objective/kl"],
        "alpha": curve.alpha,
        "beta": curve.beta,
    }


def lost_along_a_line(gold: Sequence[float]) -> float:
    """By how much the line nearest to all evaluations but the first falls, from the second evaluation to the last."""
    later = range(len(gold) - 1)
    return -statistics.linear_regression(later, gold[1:]).slope * later[-1]


def gains(run: Evaluations, score: str) -> list[float]:
    name = SCORES[score]
    return [row[name] - run[0][name] for row in run]


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean, and where it would lie with other seeds in 95 of 100 cases."""
    mean, n = statistics.fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def differences(runs: Mapping[str, Mapping[Any, Evaluations]]) -> dict[str, dict[str, Any]]:
    """Each condition less the proxy of fewest labels, paired by seed."""
    first = f"{FEWEST} labels"
    return {
        condition: {
            name: interval([of_run(of_seed[seed])[name] - of_run(runs[first][seed])[name] for seed in of_seed])
            for name in ("gold_end", "gold_highest", "gold_lost_after_highest", "kl_at_highest")
        }
        for condition, of_seed in runs.items()
        if condition != first
    }


def best_of_n(sft: Path, proxies: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, Any]:
    """What the best of n responses by each condition's proxy gains by the gold scorer: means over prompts, then over
    seeds."""
    import reward_models
    from align.configs.base import GenerationSettings
    from align.data.dialogues import generate
    from align.metrics.overoptimization import best_of, kl_of_best_of
    from align.modeling.generation import sample
    from align.modeling.load import load_causal_or_seq2seq, load_tokenizer

    rows = generate("dialogues", "dev")[:PROMPTS]
    size = max(GROUPS)
    prompts = [f"Summarize:\n{row['dialogue']}\nSummary:" for row in rows for _ in range(size)]
    references = [row["summary"] for row in rows for _ in range(size)]
    settings = GenerationSettings(max_new_tokens=48, temperature=1.0)
    drawn = sample(load_causal_or_seq2seq(sft), load_tokenizer(sft), prompts, settings, seed=0)
    responses = [response.text for response in drawn]
    polite = sft.parents[2] / "polite"
    newest = max(polite.iterdir(), key=lambda version: int(version.name[1:])) / "files"
    judge = {"model": str(newest), "transform": "probability"}
    gold_model = reward_models.load({"combine": "weighted_sum", "of": [{"model": "overlap"}, judge]})
    gold = gold_model.score(prompts, responses, references)
    found: dict[str, Any] = {"n": list(GROUPS), "kl": [kl_of_best_of(n) for n in GROUPS]}
    for condition, of_seed in proxies.items():
        columns: dict[str, list[list[float]]] = {"proxy": [], "gold": []}
        for spec in of_seed.values():
            chosen_by = reward_models.load(spec).score(prompts, responses)
            groups = [slice(start, start + size) for start in range(0, len(prompts), size)]
            for name, scores in (("proxy", chosen_by), ("gold", gold)):
                means = [statistics.fmean(best_of(n, chosen_by[one], scores[one]) for one in groups) for n in GROUPS]
                columns[name].append([mean - means[0] for mean in means])
        found[condition] = {
            name: [interval(values) for values in zip(*of_seeds, strict=True)] for name, of_seeds in columns.items()
        }
    return found


def draw(runs: Mapping[str, Mapping[Any, Evaluations]], drawn: Mapping[str, Any], path: Path) -> None:
    """Gains of gold (above) and of the proxy (below) against √KL, with fitted curves: PPO with each label budget,
    with ensembles, and best-of-n."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 4, sharex="col")
    budgets = [f"{labels} labels" for labels in BUDGETS]
    ensembles = [condition for condition, (_, labels) in CONDITIONS.items() if labels == FEWEST]
    for row, score in zip(grid, ("gold", "proxy"), strict=True):
        for axes, title, conditions in (
            (row[0], "PPO: more labels", budgets),
            (row[1], f"PPO: ensembles of {FEWEST} labels", ensembles),
        ):
            for colour, condition in enumerate(conditions):
                evaluations = [(one, gain) for run in runs[condition].values() for one, gain in _paired(run, score)]
                _curve(axes, "rl", *zip(*evaluations, strict=True), f"C{colour}", condition)
            axes.set_title(title if score == "gold" else "")
        for axes, title, conditions in (
            (row[2], "best of n: more labels", budgets),
            (row[3], f"best of n: ensembles of {FEWEST} labels", ensembles),
        ):
            for colour, condition in enumerate(conditions):
                distances = [math.sqrt(kl) for kl in drawn["kl"]]
                means = [one["mean"] for one in drawn[condition][score]]
                errors = [one["high"] - one["mean"] for one in drawn[condition][score]]
                axes.errorbar(distances, means, yerr=errors, fmt="none", color=f"C{colour}", capsize=3)
                _curve(axes, "best_of_n", distances, means, f"C{colour}", condition)
            axes.set_title(title if score == "gold" else "")
        row[0].set_ylabel(f"gain in {score} score")
    for axes in grid.flat:
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.legend(fontsize="small")
    for axes in grid[-1]:
        axes.set_xlabel("√KL (nats per response)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _paired(run: Evaluations, score: str) -> list[tuple[float, float]]:
    """√KL and gain of every evaluation."""
    distances = [math.sqrt(max(0.0, row["eval/objective/kl"])) for row in run]
    return list(zip(distances, gains(run, score), strict=True))


def _curve(
    axes: Any, method: Method, distances: Sequence[float], found: Sequence[float], colour: str, label: str
) -> None:
    from align.metrics.overoptimization import fitted

    axes.plot(distances, found, ".", color=colour, alpha=0.5)
    curve = fitted(method, distances, found)
    steps = [max(distances) * step / 100 for step in range(1, 101)]
    axes.plot(steps, [curve.gain(step) for step in steps], color=colour, label=label)


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of overoptimization.md."""
    names = ["proxy_end", "gold_highest", "kl_at_highest", "gold_end", "gold_lost_after_turn", "kl_end", "beta"]
    lines = ["| PPO against | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    lines += [
        f"| {condition} | " + " | ".join(_cell(figures[name]) for name in names) + " |"
        for condition, figures in found["ppo"].items()
    ]
    shown = ["gold_highest", "kl_at_highest", "gold_end", "gold_lost_after_highest"]
    lines += ["", f"| less {FEWEST} labels | " + " | ".join(shown) + " |", "| --- |" + " --- |" * len(shown)]
    lines += [
        f"| {condition} | " + " | ".join(_cell(figures[name]) for name in shown) + " |"
        for condition, figures in found["differences"].items()
    ]
    drawn = found["best_of_n"]
    lines += ["", "| best of | " + " | ".join(map(str, drawn["n"])) + " |", "| --- |" + " --- |" * len(drawn["n"])]
    lines += ["| KL | " + " | ".join(f"{kl:.2f}" for kl in drawn["kl"]) + " |"]
    lines += [
        f"| {condition}: {name} | " + " | ".join(_cell(one) for one in drawn[condition][name]) + " |"
        for condition in found["ppo"]
        for name in ("gold", "proxy")
    ]
    return "\n".join(lines)


def _cell(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


if __name__ == "__main__":
    main()
