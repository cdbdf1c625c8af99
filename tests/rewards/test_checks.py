"""What `align reward check` finds: nothing on sound rewards, and every planted fault by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import reward_models
from align.rewards import checks

ALL = ["contract", "description", "determinism", "batch-size", "order", "spread", "polarity"]


def found(spec: reward_models.Spec, *probes: checks.Probe) -> dict[str, checks.State]:
    return {one.check: one.state for one in checks.run(reward_models.load(spec), probes)}


def test_a_classifier_passes_and_without_probes_polarity_is_skipped(tiny_classifier: Path) -> None:
    states = found(tiny_classifier)
    assert list(states) == ALL
    assert states.pop("polarity") == "skipped"
    assert set(states.values()) == {"passed"}


def test_probes_of_the_model_and_of_the_caller_are_both_asked() -> None:
    assert set(found("rewards_for_tests:Polite").values()) == {"passed"}
    polite = reward_models.load("rewards_for_tests:Polite")
    assert checks.polarity(polite, [("Thanks!", "No!")]).message == "the better response scores higher in 3 of 3 probes"
    outcome = checks.polarity(polite, [("Thanks!", "No!"), ("No!", "Thanks!")])  # of the caller's, each counts
    assert (outcome.state, outcome.message) == ("failed", "'Thanks!' scores no lower than 'No!'")


def test_probes_cannot_be_asked_of_what_compares_with_references() -> None:
    outcome = checks.polarity(reward_models.load("overlap"), [("good", "bad")])
    assert (outcome.state, outcome.message) == ("skipped", "the model compares with references, and probes have none")


@pytest.mark.parametrize(
    ("spec", "check"),
    [
        ("rewards_for_tests:nan", "contract"),
        ("rewards_for_tests:one_short", "contract"),
        ("rewards_for_tests:constant", "spread"),
        ("rewards_for_tests:moody", "determinism"),
        ("rewards_for_tests:by_place", "order"),
        ("rewards_for_tests:by_place", "batch-size"),
        ("rewards_for_tests:alone_only", "batch-size"),
        ({"model": "rewards_for_tests:Polite", "upside_down": True}, "polarity"),
        ({"model": "rewards_for_tests:Polite", "scale": 2.0}, "description"),
    ],
)
def test_a_planted_fault_is_found_by_its_check(spec: reward_models.Spec, check: str) -> None:
    assert found(spec)[check] == "failed"


def test_a_rule_for_something_rare_is_no_constant_where_probes_show_it() -> None:
    spec = {"model": "rules", "banned": {"phrases": ["as an AI"]}}
    assert found(spec)["spread"] == "failed"
    outcomes = checks.run(reward_models.load(spec), [("I think so.", "Well, as an AI I think so.")])
    assert {one.check: one.state for one in outcomes} == dict.fromkeys(ALL, "passed")


def test_a_broken_contract_names_the_model_and_ends_the_checks() -> None:
    (outcome,) = checks.run(reward_models.load("rewards_for_tests:nan"))
    assert "reward model rewards_for_tests:nan: score 12 of 12 is nan" in outcome.message


def test_a_member_upside_down_is_found_in_a_combination() -> None:
    upside_down = {"model": "rewards_for_tests:Polite", "upside_down": True}
    spec = {"combine": "minimum", "of": ["rewards_for_tests:Polite", {"combine": "minimum", "of": [upside_down]}]}
    outcome = checks.run(reward_models.load(spec))[-1]
    assert (outcome.check, outcome.state) == ("polarity", "failed")
    assert outcome.message == "the better response scores higher by polite in 0 of 2 probes"
