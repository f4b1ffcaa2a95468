"""Which Inferences run together: equals only, in turn, up to the cap, and nobody twice or never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.batcher import AGING_S, Batcher, Item


def item(id: str, kind: str = "a", rows: int = 1, priority: int = 5, arrived: float = 0.0) -> Item:
    return Item(id, kind, rows, priority, arrived, None)


def names(batch: list[Item]) -> list[str]:
    return [one.id for one in batch]


def filled(cap: int, items: list[Item], **more: float) -> Batcher:
    batcher = Batcher(cap, **more)  # type: ignore[arg-type]
    for one in items:
        batcher.add(one)
    return batcher


def test_equals_run_together_up_to_the_cap() -> None:
    batcher = filled(3, [item(str(at), "ab"[at % 2]) for at in range(8)])
    assert [names(batcher.take(0)) for _ in range(5)] == [["0", "2", "4"], ["1", "3", "5"], ["6"], ["7"], []]


def test_one_with_more_rows_than_the_cap_runs_alone() -> None:
    batcher = filled(4, [item("big", rows=9), item("small")])
    assert [names(batcher.take(0)) for _ in range(2)] == [["big"], ["small"]]


def test_a_higher_priority_goes_first_but_waiting_counts() -> None:
    batcher = filled(1, [item("low", priority=1, arrived=0), item("high", priority=9, arrived=1)])
    assert names(batcher.take(1)) == ["high"]
    batcher.add(item("later", priority=9, arrived=8 * AGING_S + 1))
    assert names(batcher.take(100)) == ["low"]


def test_with_a_delay_one_waits_for_company_but_not_longer() -> None:
    batcher = filled(8, [item("first")], best=2, delay=0.005)
    assert batcher.take(0.004) == []
    assert batcher.due() == 0.005
    batcher.add(item("second", arrived=0.004))
    assert names(batcher.take(0.004)) == ["first", "second"]
    batcher.add(item("third", arrived=1.0))
    assert names(batcher.take(1.005)) == ["third"]


def test_what_is_cancelled_or_late_does_not_run_and_its_company_does() -> None:
    late = Item("late", "a", 1, 5, 0.0, 0.5)
    batcher = filled(8, [item("one"), late, item("two"), item("gone")])
    assert batcher.remove("gone")
    assert not batcher.remove("gone")
    assert names(batcher.late(1.0)) == ["late"]
    assert names(batcher.take(1.0)) == ["one", "two"]


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.integers(0, 9)), max_size=40),
)
def test_each_runs_once_with_equals_only_and_never_over_the_cap(
    cap: int, asked: list[tuple[str, int, int]]
) -> None:
    items = [
        item(str(at), kind, rows, priority, float(at)) for at, (kind, rows, priority) in enumerate(asked)
    ]
    batcher = filled(cap, items)
    ran: list[str] = []
    while batch := batcher.take(100.0):
        assert len({one.kind for one in batch}) == 1
        assert len(batch) == 1 or sum(one.rows for one in batch) <= cap
        ran += names(batch)
    assert sorted(ran) == sorted(one.id for one in items)
    assert not len(batcher)
