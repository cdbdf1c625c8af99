"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from align.configs import KINDS
from align.configs.sft import SftConfig
from align.errors import UsageError
from align.recipe import Recipe, Reference, load, parse_reference, shipped
from align.recipe.document import parse
from align.recipe.hints import ADVICE, RENAMED, unknown_key

RECIPE = """\
name: tiny
seed: 17
datasets:
  rows: {path: rows.jsonl, unique_by: "{prompt}"}
stages:
  base: {kind: base, model: org/tiny}
  sft:
    kind: sft
    model: base
    data:
      - {dataset: rows, prompt: "{prompt}", completion: " {answer}"}
    train:
      learning_rate: 1e-3
      max_steps: 4
  toxicity:
    kind: reward
    model: base
    data: [{dataset: rows, text: "{answer}", label: {column: label, names: {0: nontoxic, 1: toxic}}}]
    labels: {positive: nontoxic}
  ppo: {kind: ppo, policy: sft, reward: toxicity, prompts: [{dataset: rows, prompt: "{prompt}"}], ppo: {kl_coef: 5e-2}}
  evaluation:
    kind: evaluate
    models: [sft, ppo]
    data: [{dataset: rows, prompt: "{prompt}", reference: "{answer}"}]
    judge: {model: toxicity, label: toxic}
"""

Loader = Callable[..., Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Loader:
    """Load `RECIPE`, or another text, with some of it replaced."""

    def read(*replacements: tuple[str, str], text: str = RECIPE, overrides: tuple[str, ...] = ()) -> Recipe:
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, overrides)

    return read


@pytest.fixture
def problems(read: Loader) -> Callable[..., list[str]]:
    def problems(*replacements: tuple[str, str], **options: object) -> list[str]:
        with pytest.raises(UsageError) as refused:
            read(*replacements, **options)
        assert refused.value.exit_code == 2
        assert "pydantic" not in str(refused.value)
        return re.sub(r"\S*/tiny\.yaml", "tiny.yaml", str(refused.value)).splitlines()

    return problems


Problems = Callable[..., list[str]]


def test_a_recipe_is_read_as_written(read: Loader) -> None:
    recipe = read()
    assert list(recipe.stages) == ["base", "sft", "toxicity", "ppo", "evaluation"]
    sft = recipe.stages["sft"]
    assert isinstance(sft, SftConfig)
    assert sft.train.learning_rate == 0.001
    assert sft.data[0].dataset == recipe.datasets["rows"]
    assert recipe.stages["ppo"].ppo.kl_coef == 0.05  # type: ignore[attr-defined]
    assert recipe.stages["toxicity"].data[0].label.names == {"0": "nontoxic", "1": "toxic"}  # type: ignore[attr-defined]
    assert recipe.where("stages", "sft", "train", "max_steps").endswith("tiny.yaml:14")


def test_a_stage_takes_the_seed_of_the_recipe_unless_it_has_its_own(read: Loader) -> None:
    recipe = read(("    kind: reward\n", "    kind: reward\n    seed: 3\n"))
    assert recipe.stages["sft"].seed == 17
    assert recipe.stages["toxicity"].seed == 3


def test_everything_wrong_is_said_at_once_with_its_line(problems: Problems) -> None:
    found = problems(
        ("seed: 17", "sede: 17"),
        ("max_steps: 4", "max_step: 4"),
        ("kl_coef: 5e-2", "kl_coef: -1"),
        ("reward: toxicity", "reward: toxcity"),
        ("label: toxic}", "label: toxic, rule: rude_wording}"),
    )
    assert [line.split(": ")[0] for line in found] == [f"tiny.yaml:{n}" for n in (2, 14, 20, 20, 25)]
    assert found[0] == "tiny.yaml:2: sede: unknown key; did you mean `seed`?"
    assert found[1] == "tiny.yaml:14: stages.sft.train.max_step: unknown key; did you mean `max_steps`?"
    assert "stages.ppo.ppo.kl_coef: should be greater than or equal to 0, but is -1" in found[2]
    assert "stages.ppo.reward: no stage is called 'toxcity'; did you mean `toxicity`?" in found[3]
    assert "stages.evaluation.judge: a judge is either a model or a rule" in found[4]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "max_steps: 4",
            "warmup_ratio: 0.1",
            "stages.sft.train.warmup_ratio: renamed to `warmup_steps` (a number below",
        ),
        ("model: org/tiny", "model: org/tiny, torch_dtype: float32", "stages.base.torch_dtype: renamed to `dtype`"),
        ("    train:\n", "    max_seq_length: 9\n    train:\n", "stages.sft.max_seq_length: renamed to `max_length`"),
        ("max_steps: 4", "evaluation_strategy: steps", "remove it: held-out rows are given as `evaluation_data:`"),
        ("kl_coef: 5e-2", "init_kl_coef: 1", "stages.ppo.ppo.init_kl_coef: renamed to `kl_coef`"),
        ("kl_coef: 5e-2", "ppo_epochs: 1", "stages.ppo.ppo.ppo_epochs: renamed to `num_ppo_epochs`"),
        ("kl_coef: 5e-2", "max_new_tokens: 1", "stages.ppo.ppo.max_new_tokens: renamed to `response_length`"),
        ("kl_coef: 5e-2", "mini_batch_size: 1", "set num_mini_batches instead"),
        ("    train:\n", "    lora: {lora_r: 4}\n    train:\n", "stages.sft.lora.lora_r: renamed to `r`"),
        ("    train:\n", "    learning_rate: 1\n    train:\n", "does not belong here, but under `train:`"),
        ("    train:\n", "    warmup_ratio: 1\n    train:\n", "under `train:`, and is called `warmup_steps`"),
        ("    train:\n", "    report_to: wandb\n    train:\n", "tracking: {wandb: {mode: offline}}"),
        ("    train:\n", "    frobnicate: 1\n    train:\n", "unknown key; known here: kind, seed, after, model"),
        (
            "    train:\n",
            "    method: qlorra\n    train:\n",
            "should be 'full', 'lora' or 'qlora', but is 'qlorra'; did you mean `qlora`?",
        ),
        ("max_steps: 4", "max_steps: many", "stages.sft.train.max_steps: should be a whole number, but is 'many'"),
        ("max_steps: 4", "bf16: 7", "stages.sft.train.bf16: should be true or false"),
        ("    model: base\n    data:\n", "    data:\n", "tiny.yaml:7: stages.sft.model: is missing"),
        ("kind: sft", "kind: stf", "tiny.yaml:8: stages.sft.kind: there is no kind 'stf'; did you mean `sft`?"),
        ("kind: sft\n", "method: full\n", "tiny.yaml:7: stages.sft: kind is missing"),
        ("  ppo:", "  PPO:", "stages.PPO: a stage's name is its artifact's: at most 64 lowercase letters"),
        ("[sft, ppo]", "sft", "stages.evaluation.models: should be a list"),
        ("[sft, ppo]", "[]", "stages.evaluation.models: is empty"),
        ("{positive: nontoxic}\n", "{positive: nontoxic}\n    probes: [[a]]\n", "stages.toxicity.probes.0: is missing"),
        (
            "dataset: rows, text",
            "dataset: rosw, text",
            "no data set is called 'rosw'; did you mean `rows`? (known: rows)",
        ),
        ("path: rows.jsonl", "paht: rows.jsonl", "tiny.yaml:4: datasets.rows.paht: unknown key; did you mean `path`?"),
        ('unique_by: "{prompt}"', 'unique_by: "{prompt}", exclude: rows', "data set 'rows' excludes itself"),
        ("policy: sft", "policy: ppo", "tiny.yaml:20: stages.ppo.policy: a stage cannot take itself as input"),
        ("policy: sft", "policy: evaluation", "takes a language model (a stage of kind base, pretrain, sft, ppo), but"),
        (
            "reward: toxicity",
            "reward: sft",
            "takes a classifier (a stage of kind reward, base), but 'sft' is of kind sft",
        ),
        ("reward: toxicity", "reward: {modle: toxicity}", "this has modle; did you mean `model`?"),
        ("reward: toxicity", "reward: {combine: mean}", "stages.ppo.reward: `combine:` needs `of:`, a list of rewards"),
        ("reward: toxicity", "reward: {model: [rules]}", "stages.ppo.reward.model: a reward is a name or a mapping"),
        (
            "reward: toxicity",
            "reward: {combine: mean, of: [toxicity, 3]}",
            "ppo.reward.of.1: a reward is a name or a",
        ),
        ("policy: sft", "policy: org/gpt", "for the Hugging Face Hub write hub:org/gpt"),
        ("policy: sft", "policy: ./gpt", "for a directory write path:./gpt"),
        ("policy: sft", "policy: 'registry:@v1'", "names no artifact: write registry:name@v1"),
        ("policy: sft", "policy: my_module:Model", "'my_module:Model' is not a reference"),
        ("policy: sft", "policy: sft, after: [evalution]", "did you mean `evaluation`?"),
        (
            "policy: sft",
            "policy: sft, after: [evaluation]",
            "these stages wait for each other: ppo -> evaluation -> ppo",
        ),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(problems: Problems, old: str, new: str, line: str) -> None:
    assert line in "\n".join(problems((old, new)))


def test_a_problem_of_a_data_set_is_said_once_however_many_stages_use_it(problems: Problems) -> None:
    assert problems(("path: rows.jsonl", "paht: rows.jsonl")) == [
        "tiny.yaml:4: datasets.rows.paht: unknown key; did you mean `path`?"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "tiny.yaml:1: not valid YAML"),
        ("- a\n- b\n", "a recipe is a mapping of keys"),
        ("", "a recipe is a mapping of keys"),
        ("name: x\nname: y\nstages: {}", "tiny.yaml:2: name: this key was already given in line 1"),
        ("name: x\nstages: {}", "tiny.yaml:2: stages: is empty"),
        ("name: !!python/name:os.system\nstages: {}", "tiny.yaml:1: name: the tag"),
        ("name: x\nstages: &a {b: *a}", "this alias contains itself"),
        ("name: x\nstages: {[a]: b}", "a key has to be plain text"),
        ("name: x", "stages: is missing"),
    ],
)
def test_what_is_no_recipe_is_refused(problems: Problems, text: str, said: str) -> None:
    assert said in "\n".join(problems(text=text))


def test_a_key_given_twice_is_refused_with_both_lines(problems: Problems) -> None:
    found = problems(("      max_steps: 4", "      max_steps: 4\n      max_steps: 5"))
    assert found == [
        "tiny.yaml:15: stages.sft.train.max_steps: this key was already given in line 14; remove one of the two"
    ]


def test_an_alias_bomb_is_refused(problems: Problems) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "is an alias repeated?" in problems(text="\n".join(levels))[0]


def test_merge_keys_and_aliases_work(read: Loader) -> None:
    recipe = read(
        ("    train:\n", "    train: &t\n"), ("    labels: {p", "    train: {<<: *t, max_steps: 9}\n    labels: {p")
    )
    assert recipe.stages["toxicity"].train.max_steps == 9  # type: ignore[attr-defined]
    assert recipe.stages["toxicity"].train.learning_rate == 1e-3  # type: ignore[attr-defined]


def test_environment_variables_are_filled_in(read: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_DATA", "/data")
    recipe = read(("path: rows.jsonl", 'path: "${env:ALIGN_DATA}/rows.jsonl"'))
    assert recipe.datasets["rows"].path == "/data/rows.jsonl"
    assert recipe.as_written == {"/data/rows.jsonl": "${env:ALIGN_DATA}/rows.jsonl"}


def test_stages_and_columns_may_be_called_like_keys(read: Loader) -> None:
    recipe = read(
        ("  toxicity:", "  reward:"),
        ("reward: toxicity", "reward: reward"),
        ("model: toxicity", "model: reward"),
        ("      - {dataset: rows, p", "      - {dataset: rows, where: {dataset: rows}, p"),
    )
    assert recipe.stages["reward"].data[0].dataset.path == "rows.jsonl"  # type: ignore[attr-defined]
    assert recipe.stages["sft"].data[0].where == {"dataset": "rows"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("scorer", ["reward", "judge"])
def test_an_own_option_of_a_reward_or_a_judge_may_be_called_dataset(read: Loader, scorer: str) -> None:
    own = {"model": "my:M", "dataset": "foo"}
    held_out = '[{dataset: rows, prompt: "{prompt}"}]'
    scorers = {"reward": "toxicity", scorer: json.dumps(own)}
    written = ", ".join(f"{place}: {spec}" for place, spec in scorers.items())
    recipe = read(("reward: toxicity", f"evaluation_prompts: {held_out}, {written}"))
    assert getattr(recipe.stages["ppo"], scorer) == own


def test_a_seed_that_is_too_large_is_said_where_it_stands(problems: Problems) -> None:
    assert problems(("seed: 17", "seed: 5000000000")) == [
        "tiny.yaml:2: seed: should be less than 4294967296, but is 5000000000"
    ]


def test_metrics_that_cannot_be_taken_are_said_before_anything_runs(problems: Problems) -> None:
    said = problems(('reference: "{answer}"}', 'reference: "{answer}", metrics: [rogue]}'))
    assert len(said) == 1
    assert "stages.evaluation.data.0.metrics.0" in said[0]
    assert "rouge" in said[0]
    said = problems(("    judge: {model: toxicity", "    metrics: [reward]\n    judge: {model: toxicity"))
    assert "metric reward needs a `reward:`" in said[0]


def test_an_unset_environment_variable_is_named(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    written = ("path: rows.jsonl", 'path: "${env:ALIGN_DATA}/rows.jsonl"')
    said = (
        "tiny.yaml:4: datasets.rows.path: environment variable ALIGN_DATA is not set;"
        " set it first: export ALIGN_DATA=..."
    )
    monkeypatch.delenv("ALIGN_DATA", raising=False)
    assert problems(written) == [said]
    monkeypatch.setenv("ALIGN_DATA", "")
    assert problems(written) == [said]


def test_overrides_are_typed_by_the_schema(read: Loader) -> None:
    recipe = read(
        overrides=(
            "stages.sft.train.learning_rate=2e-4",
            "stages.sft.data.0.limit=3",
            "stages.base.revision=1234567",
            "stages.ppo.ppo.health.action=stop",
            "stages.ppo.reward={model: toxicity, transform: probability}",
            "datasets.rows.path=other.jsonl",
        )
    )
    assert recipe.stages["sft"].train.learning_rate == 2e-4  # type: ignore[attr-defined]
    assert recipe.stages["sft"].data[0].limit == 3  # type: ignore[attr-defined]
    assert recipe.stages["base"].revision == "1234567"  # type: ignore[attr-defined]
    assert recipe.stages["ppo"].ppo.health.action == "stop"  # type: ignore[attr-defined]
    assert recipe.stages["ppo"].references() == {"policy": "sft", "reward.model": "toxicity"}
    assert recipe.stages["sft"].data[0].dataset.path == "other.jsonl"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.sft.trian.max_steps=3", "stages.sft.trian: unknown key; did you mean `train`?"),
        ("stages.stf.train.max_steps=3", "stages.stf: no stage is called 'stf'; did you mean `sft`?"),
        ("stages.sft.data.4.limit=3", "stages.sft.data.4: a list of 1 takes an index from 0 to 0, not 4"),
        ("stages.sft.train.max_steps=x", "stages.sft.train.max_steps: should be a whole number, but is 'x'"),
        ("stages.sft.model.x=1", "stages.sft.model is 'base', not a mapping, and has no keys to set"),
        ("stages.sft.data.0.dataset.path=x", "is the name of a data set: set datasets.rows.path instead"),
        ("stages.sft.model", "an override is key.path=value"),
        ("=3", "an override is key.path=value"),
    ],
)
def test_a_bad_override_is_shown_as_it_was_given(problems: Problems, override: str, said: str) -> None:
    (found,) = problems(overrides=(override,))
    assert found.startswith(f"--set {override}: ")
    assert said in found


@given(
    path=st.lists(st.sampled_from(["a", "b", "c.d", "e"]), min_size=1, max_size=4),
    value=st.one_of(
        st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text("xyz/ ", max_size=5)
    ),
)
def test_an_override_sets_exactly_what_it_names(path: list[str], value: object) -> None:
    text = "a: {b: {a: 1, c.d: {e: 2}}}\nc.d: {a: {b: {}}}\nlist: [1, {a: 2}]\n"
    before = parse(text, "t.yaml").values
    document = parse(
        text, "t.yaml", [f"{'.'.join(path)}={yaml.safe_dump(value).removesuffix('...' + chr(10)).strip()}"]
    )
    if document.problems:
        assert document.values == before
        return
    here = document.values
    (changed,) = document.raw_overrides
    for key in changed:
        here = here[key]
    assert here == value
    assert document.values["list"] == before["list"]


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("sft", Reference("stage", "sft")),
        ("registry:sft@v2", Reference("registry", "sft", "v2")),
        ("registry:sft", Reference("registry", "sft")),
        ("hub:org/name@main", Reference("hub", "org/name", "main")),
        ("path:./dir@x", Reference("path", "./dir@x")),
        ("my_module:MyReward", Reference("other", "my_module:MyReward")),
        ("http://127.0.0.1:8000", Reference("other", "http://127.0.0.1:8000")),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize("reward", ["rules", "my_module:MyReward", "http://127.0.0.1:8000", "hub:org/name", "path:./x"])
def test_a_reward_may_be_more_than_a_stage(read: Loader, reward: str) -> None:
    assert read(("reward: toxicity", f'reward: "{reward}"')).stages["ppo"].references()["reward"] == reward


def test_every_renamed_key_leads_to_one_that_exists() -> None:
    for old, new in RENAMED.items():
        hints = [unknown_key(old, model, ()) for model in KINDS.values()]
        assert any("renamed to" in hint or "does not belong here" in hint for hint in hints), f"{old} -> {new}"
    assert not RENAMED.keys() & ADVICE.keys()


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe file qiuckstart.*did you mean `quickstart`\?"):
        load("qiuckstart")
    with pytest.raises(UsageError, match="is a directory"):
        load(tmp_path)


def test_shipped_recipes_are_found_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_DATA", "/data")
    assert "quickstart" in shipped()
    for name in shipped():
        assert load(name).stages
