"""Of several canaries each keeps its users, whatever becomes of the others' weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.places import PLACES, Span, has, place, resized

CANARIES = "abcd"
USERS = {f"user-{at}": place("model", f"user-{at}") for at in range(2000)}
STABLE = ""

Spans = dict[str, list[Span]]

weights = st.one_of(st.just(0.0), st.floats(0, 30), st.floats(0, 100))
changes = st.lists(st.tuples(st.sampled_from(CANARIES), weights), min_size=1, max_size=12)


def change(spans: Spans, canary: str, weight: float) -> Spans:
    """What each has once this canary's weight is another, as far as the others leave room."""
    others = [span for name, mine in spans.items() if name != canary for span in mine]
    return spans | {canary: resized(spans[canary], others, weight)}


def size(spans: list[Span]) -> int:
    return sum(end - begin for begin, end in spans)


def who(spans: Spans) -> dict[str, str]:
    return {
        user: next((name for name, mine in spans.items() if has(mine, at)), STABLE)
        for user, at in USERS.items()
    }


@settings(max_examples=60, deadline=None)
@given(changes)
def test_a_change_of_one_weight_moves_users_only_between_that_canary_and_the_stable_version(
    steps: list[tuple[str, float]],
) -> None:
    spans: Spans = {name: [] for name in CANARIES}
    for canary, weight in steps:
        before, spans = who(spans), change(spans, canary, weight)
        moved = {
            (was, now) for was, now in zip(before.values(), who(spans).values(), strict=True) if was != now
        }
        grew = (STABLE, canary) in moved
        assert moved <= {(STABLE, canary) if grew else (canary, STABLE)}


@settings(max_examples=60, deadline=None)
@given(changes)
def test_each_canary_has_its_weight_of_all_users(steps: list[tuple[str, float]]) -> None:
    spans: Spans = {name: [] for name in CANARIES}
    shares = dict.fromkeys(CANARIES, 0.0)
    for canary, weight in steps:
        shares[canary] = min(weight, 100 - sum(shares.values()) + shares[canary])
        spans = change(spans, canary, shares[canary])
    told = list(who(spans).values())
    for name, weight in shares.items():
        assert size(spans[name]) == pytest.approx(weight / 100 * PLACES, abs=len(CANARIES))
        assert told.count(name) / len(told) == pytest.approx(weight / 100, abs=0.05)
    taken = sorted(span for mine in spans.values() for span in mine)
    assert all(one[1] <= other[0] for one, other in pairwise(taken)), "none has two"


@given(changes, st.floats(0, 100))
def test_a_change_that_is_undone_brings_everybody_back(steps: list[tuple[str, float]], more: float) -> None:
    spans: Spans = {name: [] for name in CANARIES}
    for canary, weight in steps:
        spans = change(spans, canary, weight)
    weight = size(spans["a"]) / PLACES * 100
    assert change(change(spans, "a", max(weight, more)), "a", weight) == spans
