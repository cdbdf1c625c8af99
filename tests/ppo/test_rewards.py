"""What PPO does with a reward: parts are logged, references reach it, and one that teaches nothing stops the run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import reward_models
from align.errors import AlignError, UsageError
from align.ppo import PPOConfig, PPOTrainer
from align.ppo.state import Variety
from align.tracking import NullTracker
from reward_models import RewardError

ROWS = [{"prompt": f"w{word} w5", "reference": f"w{word} w7"} for word in range(4, 12)]


class Recorder(NullTracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.figures: list[Mapping[str, float]] = []

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self.figures.append(figures)


@pytest.fixture
def train(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Callable[..., Recorder]:
    def run(reward: Any, rows: Sequence[Mapping[str, Any]] = ROWS, **more: Any) -> Recorder:
        recorder = Recorder()
        settings = {"total_episodes": 32, "batch_size": 16, "response_length": 8, **more.pop("settings", {})}
        PPOTrainer(
            args=PPOConfig(**settings),
            processing_class=word_tokenizer,
            model=tiny_model("llama"),
            reward_model=reward,
            train_dataset=rows,
            eval_dataset=ROWS[:4],
            tracker=recorder,
            **more,
        ).train()
        return recorder

    return run


def test_every_component_is_logged_by_itself(train: Callable[..., Recorder]) -> None:
    length = {"model": "rules", "length": {"target": 20}, "name": "length"}
    spec = {"combine": "weighted_sum", "of": [length, "overlap"], "weights": [0.5, 2]}
    recorder = train(reward_models.load(spec))
    for prefix in ("", "eval/"):
        logged = [figures for figures in recorder.figures if f"{prefix}objective/scores" in figures]
        assert len(logged) >= 2
        for figures in logged:
            of_length, of_overlap = (figures[f"{prefix}objective/scores/{name}"] for name in ("length", "overlap"))
            assert figures[f"{prefix}objective/scores"] == pytest.approx(0.5 * of_length + 2 * of_overlap, abs=1e-5)
            assert of_length == pytest.approx(figures[f"{prefix}objective/scores/length.length"])
    assert len({figures.get("objective/scores") for figures in recorder.figures} - {None}) == 2


def test_references_that_a_reward_needs_must_be_there(train: Callable[..., Recorder]) -> None:
    with pytest.raises(UsageError, match="overlap compares responses with references, and 8 of 12 prompts have none"):
        train(reward_models.load("overlap"), [{"prompt": row["prompt"]} for row in ROWS])


@pytest.mark.parametrize("batch_size", [16, 80])
def test_a_constant_reward_stops_with_its_name_and_a_checkpoint(
    train: Callable[..., Recorder], tmp_path: Path, batch_size: int
) -> None:
    settings = {"batch_size": batch_size, "total_episodes": 160}
    reward = reward_models.checked(lambda prompts, responses: [0.25] * len(responses), "planted")
    with pytest.raises(AlignError, match=r"reward model planted is constant: it gave 0\.25 to each of"):
        train(reward, settings=settings, checkpoint_dir=tmp_path)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    kept = json.loads((checkpoint / "state.json").read_text())
    assert len(kept["variety"]["responses"]) >= 64
    assert kept["update"] == int(checkpoint.name.removeprefix("checkpoint-")) < 160 // batch_size
    train(reward, settings={**settings, "health": {"min_score_std": None}})


def test_only_different_responses_tell_that_a_reward_is_constant() -> None:
    variety = Variety()
    few, many = ["a", "b"], [str(number) for number in range(62)]
    for _ in range(40):
        variety.watch("planted", [0.25] * 2, few)
    with pytest.raises(RewardError, match=r"it gave 0\.25 to each of 64 different responses"):
        variety.watch("planted", [0.25] * 62, many)
    variety.watch("planted", [0.25, 0.5], few)
    assert variety.seen


def test_a_constant_reward_is_said_at_the_end_of_a_run_too_short_for_an_error(
    train: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    train(reward_models.checked(lambda prompts, responses: [0.25] * len(responses), "planted"))
    assert "reward model planted gave 0.25 to every response of this run" in caplog.text
    caplog.clear()
    train(reward_models.checked(lambda prompts, responses: [float(len(text)) for text in responses], "length"))
    assert "to every response" not in caplog.text


def test_a_constant_reward_that_is_meant_is_not_spoken_of(
    train: Callable[..., Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    constant = reward_models.checked(lambda prompts, responses: [0.25] * len(responses), "planted")
    train(constant, settings={"total_episodes": 16, "batch_size": 8}, checkpoint_dir=tmp_path)
    assert "to every response" in caplog.text
    caplog.clear()
    meant = {"total_episodes": 32, "batch_size": 8, "health": {"min_score_std": None}}
    train(constant, settings=meant, checkpoint_dir=tmp_path)
    assert "to every response" not in caplog.text


def test_what_a_failed_reward_kept_from_evaluation_is_evaluated_by_the_same_command(
    train: Callable[..., Recorder], tmp_path: Path
) -> None:
    class Enough(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    calls = itertools.count()

    def down_at_the_end(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        if next(calls) >= 3:  # the first evaluation, the update, and its check of the order are over
            raise OSError("down")
        return [float(len(response)) for response in responses]

    more = {"settings": {"eval_steps": 100}, "callbacks": [Enough], "checkpoint_dir": tmp_path}
    with pytest.raises(AlignError, match=r"after update 1: .*down"):
        train(reward_models.checked(down_at_the_end, "length"), **more)
    kept = json.loads((tmp_path / "checkpoint-1" / "state.json").read_text())
    assert (kept["stopped"], [one["update"] for one in kept["evaluations"]]) == ("a callback asked for it", [0])
    recorder = train(reward_models.checked(lambda p, r: [float(len(text)) for text in r], "length"), **more)
    assert any("eval/objective/scores" in figures for figures in recorder.figures)


@pytest.mark.parametrize("most", [-0.1, 1000.1])
def test_scores_that_float32_rounds_are_the_same_in_another_order(train: Callable[..., Recorder], most: float) -> None:
    fine = reward_models.checked(lambda p, responses: [most + 1e-6 * ("w4" in text) for text in responses])
    train(fine, settings={"eval_steps": 100, "health": {"min_score_std": None}})


def test_a_reward_that_is_seldom_given_is_not_taken_for_a_constant_one(train: Callable[..., Recorder]) -> None:
    calls = iter(range(100))
    seldom = reward_models.checked(lambda p, responses: [float(next(calls) == 3), *[0.0] * (len(responses) - 1)])
    train(seldom, settings={"total_episodes": 160, "eval_steps": 100})
