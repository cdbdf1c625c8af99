from __future__ import annotations

import json

import pytest

from align.configs.ppo import PPOStageConfig
from align.configs.reward import RewardConfig
from align.configs.sft import SftConfig
from align.data import checking

SENTENCES = {"dataset": {"generator": "sentences", "size": 20}, "text": "{text}", "label": {"column": "label"}}


def reward(positive="nontoxic", **more):
    return RewardConfig.model_validate(
        {"kind": "reward", "model": "base", "labels": {"positive": positive}, "data": [SENTENCES], **more}
    )


def test_good_data_has_no_problems():
    assert checking.check(reward()) == []
    assert checking.check(reward(evaluation_data=[SENTENCES])) == []


def test_all_problems_of_a_stage_are_told_at_once(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    prompt = "{dialouge}"
    generated = {"generator": "dialogues", "size": 3}
    config = PPOStageConfig.model_validate(
        {
            "kind": "ppo",
            "policy": "sft",
            "reward": "toxicity",
            "prompts": [
                {"dataset": {"path": str(tmp_path / "missing.csv")}, "prompt": prompt},
                {"dataset": generated, "prompt": prompt},
            ],
            "evaluation_prompts": [
                {"dataset": {"path": str(tmp_path / "bad.jsonl")}, "prompt": prompt},
                {"dataset": generated, "prompt": "{dialogue}", "where": {"topic": "lnch"}},
            ],
        }
    )
    problems = checking.check(config)
    assert len(problems) == 4
    for problem, place, words in zip(
        problems,
        ("prompts.0: ", "prompts.1: ", "evaluation_prompts.0: ", "evaluation_prompts.1: "),
        ("missing.csv does not exist", "did you mean 'dialogue'?", "bad.jsonl:2: not JSON", "none of 3 rows left"),
        strict=True,
    ):
        assert problem.startswith(place)
        assert words in problem


def test_weights_are_of_the_labels_that_there_are():
    assert checking.check(reward(class_weights={"toxic": 2, "nontoxic": 1})) == []
    (problem,) = checking.check(reward(class_weights={"toxic": 2, "ugly": 1}))
    assert problem == "class_weights: names toxic, ugly, but the labels are nontoxic, toxic"


def _rows(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"dataset": {"path": str(path)}}


def test_what_dividing_the_rows_would_find_out_is_found_out_now(tmp_path):
    several = _rows(tmp_path, *({"text": f"t{n}", "rude": 1, "loud": n % 2} for n in range(40)))
    labels = {"rude": "rude", "loud": "loud"}
    (problem,) = checking.check(reward("rude", data=[{**several, "text": "{text}", "labels": labels}]))
    assert problem.startswith("data: all rows, or none of them, have the label 'rude'")
    pair = {**_rows(tmp_path, {"good": "a", "bad": "b"}), "chosen": "{good}", "rejected": "{bad}"}
    (problem,) = checking.check(RewardConfig.model_validate({"kind": "reward", "model": "base", "pairs": [pair]}))
    assert problem == "pairs: 1 pairs are too few: some are set aside to measure with"


def test_one_row_of_a_class_is_found_out_before_anything_runs(tmp_path):
    rows = _rows(tmp_path, *({"text": f"t{n}", "label": "toxic" if n == 0 else "nontoxic"} for n in range(40)))
    selected = {**rows, "text": "{text}", "label": {"column": "label"}}
    (problem,) = checking.check(reward(data=[selected]))
    assert problem.startswith("data: all held-out rows, or none of them, are 'nontoxic'")


def test_moments_need_more_than_one_prompt():
    prompts = {"dataset": {"generator": "dialogues", "size": 3}, "prompt": "{dialogue}", "limit": 1}
    (problem,) = checking.check(reward(normalize={"policy": "sft", "prompts": [prompts]}))
    assert problem == "normalize.prompts: one prompt, and moments need two or more"
    assert checking.check(reward(normalize={"policy": "sft", "prompts": [{**prompts, "limit": 2}]})) == []


@pytest.mark.parametrize(
    "settings",
    [{"dropout": 1}, {"token_dropout": 1}, {"average_weights": 1}, {"seed": -1}, {"seed": 2**32},
     {"train": {"max_steps": 0}}, {"train": {"adam_beta2": 1}}],
)  # fmt: skip
def test_settings_that_train_nothing_are_refused(settings):
    with pytest.raises(ValueError, match="1 validation error"):
        reward(**settings)


def test_a_reward_label_that_the_data_lacks():
    (problem,) = checking.check(reward(positive="nothate"))
    assert problem == (
        "labels.positive: 'nothate' is not among the labels of the data: nontoxic (10 rows), toxic (10 rows)"
    )


@pytest.mark.parametrize("field", ["data", "evaluation_data"])
def test_one_class_only(field):
    problems = checking.check(reward(**{field: [{**SENTENCES, "where": {"label": "nontoxic"}}]}))
    assert problems == [f"{field}: all rows have one label, nontoxic (10 rows); a classifier needs two"]


def test_labels_that_differ_in_case_or_space_alone(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "a", "label": "{label}"}}\n' for label in ("toxic", "nontoxic", " Toxic")))
    problems = checking.check(reward(data=[{**SENTENCES, "dataset": {"path": str(file)}}]))
    assert problems == [
        "data: labels that differ only in case or spaces: 'Toxic', 'toxic'; make them equal, as label.names can"
    ]


def test_evaluation_labels_must_be_known_from_training():
    names = {"toxic": "hate", "nontoxic": "nontoxic"}
    problems = checking.check(reward(evaluation_data=[{**SENTENCES, "label": {"column": "label", "names": names}}]))
    assert problems == ["evaluation_data: has labels that `data` lacks: hate"]


def test_instructions_are_checked_too():
    config = SftConfig.model_validate(
        {
            "kind": "sft",
            "model": "base",
            "data": [
                {"dataset": {"generator": "dialogues", "size": 3}, "prompt": "{dialogue}", "completion": " {sum}"}
            ],
        }
    )
    (problem,) = checking.check(config)
    assert "no column 'sum'; did you mean 'summary'?" in problem
