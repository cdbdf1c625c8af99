"""What may be said of a classifier, and the check of it, for which nothing need be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from reward_models.base import RewardError

Input = Literal["response", "prompt_and_response", "chat"]
Transform = Literal["logit", "log_odds", "probability", "log_probability"]

OPTIONS = (
    "label",
    "names",
    "transform",
    "sign",
    "input",
    "max_length",
    "append_eos",
    "batch_tokens",
    "device",
    "torch_compile",
    "revision",
)
"""What `Classifier.load` takes, which says what each means."""
_CHOICES = {
    "transform": get_args(Transform),
    "input": get_args(Input),
    "sign": (1, -1),
    "append_eos": (True, False),
    "torch_compile": (True, False),
}


def score_range(transform: Transform, sign: int) -> list[float | None]:
    """The lowest and the highest score there can be; None where there is no bound."""
    low: float | None = 0.0 if transform == "probability" else None
    high: float | None = {"probability": 1.0, "log_probability": 0.0}.get(transform)
    return [low, high] if sign == 1 else [None if high is None else -high, None if low is None else -low]


def renamed(labels: Mapping[int, str], names: Mapping[Any, Any]) -> dict[int, str]:
    """Labels by their index, where a spec or a declaration renames them by index or by name.

    An index stands for the label there, unless it is some label's own name, as the "1" to "5" of ratings are.
    """
    said = {str(key): str(value) for key, value in names.items()}
    by_index = {index: found if str(index) in labels.values() else str(index) for index, found in labels.items()}
    return {index: said.get(found, said.get(by_index[index], found)) for index, found in labels.items()}


def check(name: str, options: Mapping[str, Any]) -> None:
    """Check a classifier's options without loading it.

    Raises:
        RewardError: an unknown option, or a value that makes no sense. What is None was not said.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise RewardError(f"reward model {name}: a classifier takes {', '.join(OPTIONS)}, not {', '.join(unknown)}")
    said = {key: value for key, value in options.items() if value is not None}
    for option, allowed in _CHOICES.items():
        if option in said and (said[option] not in allowed or type(said[option]) is not type(allowed[0])):
            raise RewardError(
                f"reward model {name}: {option} is {said[option]!r}; it can be {', '.join(map(str, allowed))}"
            )
    for option in ("max_length", "batch_tokens"):
        value = said.get(option)
        if value is not None and (type(value) is not int or value < 1):
            raise RewardError(f"reward model {name}: {option} must be a whole number above 0, not {value!r}")
    if not isinstance(said.get("label", ""), str):
        raise RewardError(f"reward model {name}: label must be a label's name, not {said['label']!r}")
    if not isinstance(said.get("names", {}), Mapping):
        raise RewardError(f"reward model {name}: names must map labels to names, as in {{LABEL_0: nothate}}")
