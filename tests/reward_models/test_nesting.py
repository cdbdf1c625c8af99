from __future__ import annotations

from reward_models import nesting

SPEC = {
    "combine": "minimum",
    "of": ["first", {"model": {"model": "second", "label": "hate"}, "normalize": "moments.json"}],
    "name": "both",
}


def test_all_is_found_by_its_place() -> None:
    assert [place for place, _ in nesting.walk(SPEC)] == [
        (),
        ("of", 0),
        ("of", 1),
        ("of", 1, "model"),
        ("of", 1, "model", "model"),
    ]
    names = {place: inner for place, inner in nesting.walk(SPEC, ("reward",)) if isinstance(inner, str)}
    assert names == {("reward", "of", 0): "first", ("reward", "of", 1, "model", "model"): "second"}


def test_of_is_somebody_s_own_option_where_nothing_is_combined() -> None:
    own = {"model": "mine:score", "of": ["tea", "coffee"]}
    assert [place for place, _ in nesting.walk(own)] == [(), ("model",)]
    assert nesting.rebuilt(own, str.upper) == {"model": "MINE:SCORE", "of": ["tea", "coffee"]}


def test_what_is_rebuilt_is_made_of_what_was_changed() -> None:
    def renamed(spec: object) -> object:
        return nesting.rebuilt(spec, renamed) if isinstance(spec, dict) else f"{spec} again"

    assert nesting.rebuilt(SPEC, renamed) == {
        "combine": "minimum",
        "of": ["first again", {"model": {"model": "second again", "label": "hate"}, "normalize": "moments.json"}],
        "name": "both",
    }
    assert SPEC["of"][0] == "first"


def test_what_is_no_spec_is_looked_into_no_further() -> None:
    for broken in (None, 3, ["a"], {"combine": "minimum"}, {"combine": "minimum", "of": "a"}, {}):
        assert list(nesting.walk(broken)) == [((), broken)]
