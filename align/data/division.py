"""How a reward's rows are divided: into those to train on, those to tune with and those to measure with.

What is tuned or measured with must not have been trained on, in other rows neither: rows of one unit stay together.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from align.configs.reward import RewardConfig
from align.data import examples, units
from align.data.examples import Labelled, MultiLabelled, Preference
from align.errors import UsageError

logger = logging.getLogger(__name__)

HELD_OUT = 0.1
"""Of each label's rows, where there is no evaluation data; and again for early stopping or calibration."""
MOST_TUNING = 1000
"""Units, such as rows of one text: enough for a temperature or a comparison of losses, and the others train."""

Example = Labelled | MultiLabelled
Row = TypeVar("Row")


class Division(NamedTuple, Generic[Row]):
    """No unit is in two of these, unless the rows to measure with were given so."""

    training: list[Row]
    tuning: list[Row]
    """Empty where nothing is to be tuned."""
    held_out: list[Row]


def of_labels(config: RewardConfig) -> Division[Example]:
    """Labelled texts. Those to measure with are given, or like those to tune with a share of each label's, drawn by the
    seed.

    Raises:
        UsageError: the label that is scored is lacking, or has no other beside it, in a part that needs both.
    """
    read = examples.multi_labelled if config.data[0].labels else examples.labelled
    training: list[Example] = list(read(config.data))
    held_out: list[Example] = list(read(config.evaluation_data)) if config.evaluation_data else []
    tuning: list[Example] = []
    by_prompt = units.are_units([row.prompt for row in training])

    def unit(row: Example) -> Hashable:
        """Responses to one prompt are no more independent than one text twice."""
        return row.prompt if by_prompt and row.prompt else (row.prompt, row.text)

    _warn_of_shared("evaluation_data", training, held_out, lambda row: (row.prompt, row.text))
    if not held_out or config.needs_tuning_rows:
        random.Random(config.seed).shuffle(training)
    if not held_out:
        training, held_out = set_aside(training, unit, names)
    if config.needs_tuning_rows:
        training, tuning = set_aside(training, unit, names, most=MOST_TUNING, seed=config.seed)
        if not tuning:
            raise UsageError(
                "early_stopping and calibration need rows of their own, and no label has two rows, of which one could "
                "be set aside: add rows, or leave both out"
            )
    _check_labels(config, training, held_out)
    return Division(training, tuning, held_out)


def of_pairs(config: RewardConfig) -> Division[Preference]:
    """Preferences.

    Raises:
        UsageError: there are too few to keep some aside.
    """
    training = examples.preferences(config.pairs)
    held_out = examples.preferences(config.evaluation_pairs) if config.evaluation_pairs else []
    tuning: list[Preference] = []
    random.Random(config.seed).shuffle(training)
    by_prompt = units.are_units([pair.prompt for pair in training])

    def unit(pair: Preference) -> Hashable:
        """Pairs of one prompt tell less than as many of different prompts."""
        return pair.prompt if by_prompt and pair.prompt else pair

    _warn_of_shared("evaluation_pairs", training, held_out, lambda pair: pair)
    if not held_out:
        training, held_out = _pairs_set_aside(training, unit)
    if config.needs_tuning_rows:
        training, tuning = _pairs_set_aside(training, unit, most=MOST_TUNING, seed=config.seed)
    return Division(training, tuning, held_out)


def names(row: Example) -> tuple[str, ...]:
    """Of the labels that hold of a row."""
    return (row.label,) if isinstance(row, Labelled) else row.labels


def all_labels(config: RewardConfig, training: Sequence[Example]) -> list[str]:
    """The labels of the classifier, in the order of its outputs."""
    return sorted(config.data[0].labels or {name for row in training for name in names(row)})


def set_aside(
    rows: Sequence[Row],
    unit: Callable[[Row], Hashable],
    label: Callable[[Row], Hashable],
    *,
    most: int | None = None,
    seed: int = 0,
) -> tuple[list[Row], list[Row]]:
    """The rows without the first tenth of those of each label, and that tenth, label by label.

    What is tuned or measured with must not have been trained on: rows of one unit stay together, wherever the first
    of them falls.

    Args:
        rows: in the order from which the tenth is taken.
        unit: equal for rows that tell the same, such as those of one text.
        label: what the shares are of.
        most: units to set aside at most.
        seed: by which these are drawn of more.
    """
    labels: dict[Hashable, Any] = {}
    for row in rows:
        labels.setdefault(unit(row), label(row))  # a unit counts as the first of its rows
    aside: list[Hashable] = []
    for name in sorted(set(labels.values())):
        of_label = [one for one, found in labels.items() if found == name]
        aside += of_label[: max(1, round(HELD_OUT * len(of_label))) if len(of_label) > 1 else 0]
    if most is not None and len(aside) > most:
        random.Random(seed).shuffle(aside)  # they come label by label
    places = {one: place for place, one in enumerate(aside)}
    by_label = sorted(rows, key=label)  # type: ignore[arg-type]
    kept = [row for row in by_label if unit(row) not in places]
    drawn = sorted((row for row in by_label if unit(row) in places), key=lambda row: places[unit(row)])
    end = len(drawn) if most is None else sum(places[unit(row)] < most for row in drawn)
    return kept + drawn[end:], drawn[:end]


def _warn_of_shared(
    key: str, training: Sequence[Row], held_out: Sequence[Row], content: Callable[[Row], Hashable]
) -> None:
    """Rows that are given to measure with are used as they are, whatever is trained on."""
    trained = {content(row) for row in training}
    if shared := sum(content(row) in trained for row in held_out):
        logger.warning(
            "%s: %d of its %d rows are also trained on, so that what is measured flatters the model. `unique_by` with "
            "`exclude` leaves such rows out",
            key,
            shared,
            len(held_out),
        )


def _pairs_set_aside(
    pairs: Sequence[Preference], unit: Callable[[Preference], Hashable], **how: Any
) -> tuple[list[Preference], list[Preference]]:
    kept, aside = set_aside(pairs, unit, lambda pair: "", **how)
    if not aside:
        raise UsageError(f"{len(pairs)} pairs are too few: some are set aside to measure with")
    return kept, aside


def _check_labels(config: RewardConfig, training: Sequence[Example], held_out: Sequence[Example]) -> None:
    assert config.labels is not None
    scored, labels = config.labels.scored, all_labels(config, training)
    if problem := examples.ambiguity(labels):
        raise UsageError(f"data: {problem}")
    if scored not in labels:
        raise UsageError(f"labels names {scored!r}, but the data has only the labels: {', '.join(labels)}")
    if len(labels) < 2 or len({scored in names(row) for row in training}) < 2:
        raise UsageError(f"all rows, or none of them, have the label {scored!r}: a classifier needs rows of both kinds")
    if strange := sorted({name for row in held_out for name in names(row)} - set(labels)):
        raise UsageError(f"evaluation_data has labels that data lacks: {', '.join(strange)}")
    if len({scored in names(row) for row in held_out}) < 2:
        raise UsageError(
            f"all held-out rows, or none of them, are {scored!r}: they cannot measure the classifier; add rows or "
            "evaluation_data"
        )
