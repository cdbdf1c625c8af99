"""How somebody's `score` is called: it need not know our order of arguments, nor that there are references."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Scorer = Callable[..., Sequence[float]]
"""A plain function `(prompts, responses)` or `(prompts, responses, references)`."""
_RESPONSES = ("responses", "completions")
"""What the parameter may be called that takes them by name in any place; the second is TRL's word."""


def taking_references(score: Scorer) -> Scorer:
    """`score`, given references too: by their name, as a third argument that it requires, or not at all.

    An optional third argument of another name is an option of its own. What calls a parameter `responses` or
    `completions` may have it in any place, and the prompts too, or do without them.

    Raises:
        ValueError: by the names of its parameters it takes responses first.
    """
    try:
        signature = inspect.signature(score)
    except (TypeError, ValueError):  # written in C, without a signature
        return score
    takes = signature.parameters
    first_two = [name for name, one in takes.items() if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)][:2]
    responses = next((name for name in _RESPONSES if name in takes and _has_name(takes[name])), None)
    if responses is not None and responses not in first_two[1:]:
        return _by_keyword(score, responses, takes)
    if first_two and first_two[0].startswith(("response", "completion")):
        raise ValueError(
            f"its first parameter is called {first_two[0]}, but prompts come first; called `prompts` and `responses` "
            "they may come in any order"
        )
    references = takes.get("references")
    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    if _has_name(references) if references is not None else anything:
        return lambda prompts, responses, references: score(prompts, responses, references=references)
    third = [*takes.values()][2:3]
    is_option = references is None and bool(third) and third[0].default is not third[0].empty
    if is_option or not _binds(signature, 3):
        return lambda prompts, responses, references: score(prompts, responses)
    return score


def _has_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _binds(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


def _by_keyword(score: Scorer, name_of_responses: str, takes: Mapping[str, inspect.Parameter]) -> Scorer:
    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())

    def called(prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None) -> Any:
        given = {"prompts": prompts, name_of_responses: responses, "references": references}
        return score(**{name: texts for name, texts in given.items() if anything or name in takes})

    return called
