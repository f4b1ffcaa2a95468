"""Which Inferences run together: equals only, in turn, up to the cap, and nobody twice or never."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Inferences come, are cancelled, pass their deadlines and are taken, while the clock goes on."""

    @initialize(cap=st.integers(1, 8), best=st.integers(1, 8), delay=st.sampled_from([0.0, 0.0, 0.5, 30.0]))
    def begin(self, cap: int, best: int, delay: float) -> None:
        self.batcher = Batcher(cap, min(best, cap), delay)
        self.now = 0.0
        self.waiting: dict[str, Item] = {}
        self.count = 0

    def turn(self, one: Item) -> float:
        return one.arrived - AGING_S * one.priority

    @rule(
        kind=st.sampled_from("abc"),
        rows=st.integers(1, 12),
        priority=st.integers(0, 9),
        patience=st.none() | st.floats(0, 60),
    )
    def comes(self, kind: str, rows: int, priority: int, patience: float | None) -> None:
        deadline = None if patience is None else self.now + patience
        one = Item(f"r{self.count}", kind, rows, priority, self.now, deadline)
        self.count += 1
        self.waiting[one.id] = one
        self.batcher.add(one)

    @rule(seconds=st.floats(0, 20))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 40))
    def is_cancelled(self, number: int) -> None:
        there = self.waiting.pop(f"r{number}", None)
        assert self.batcher.remove(f"r{number}") == (there is not None)

    @rule()
    def is_taken(self) -> None:
        over = [one for one in self.waiting.values() if one.deadline is not None and one.deadline <= self.now]
        assert self.batcher.late(self.now) == sorted(over, key=self.turn)
        for one in over:
            del self.waiting[one.id]
        batch = self.batcher.take(self.now)
        turns = sorted(self.waiting.values(), key=self.turn)
        if not batch:
            assert not turns or self.now < turns[0].arrived + self.batcher.delay
            return
        assert batch[0] is turns[0], "whose turn it is goes in every batch, so nobody starves"
        equals = [one for one in turns if one.kind == batch[0].kind]
        assert batch == [one for one in equals if one in batch], "equals only, each once, in turn"
        rows = sum(one.rows for one in batch)
        assert rows <= self.batcher.cap or len(batch) == 1
        left = [one for one in equals if one not in batch]
        assert all(rows + one.rows > self.batcher.cap for one in left), "who fits comes along"
        for one in batch:
            del self.waiting[one.id]

    @invariant()
    def nobody_is_lost(self) -> None:
        if hasattr(self, "batcher"):
            assert len(self.batcher) == len(self.waiting)
            assert (self.batcher.due() is None) == (not self.waiting or not self.batcher.delay)


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 4 * AGING_S)), min_size=1, max_size=30))
def test_nobody_waits_behind_those_who_came_much_later(later: list[tuple[int, float]]) -> None:
    """Nine priorities are worth 45 s: whoever waits for longer goes before the most urgent newcomer."""
    batcher = filled(1, [item("first", priority=0)])
    arrivals = sorted(9 * AGING_S + 0.001 + seconds for _, seconds in later)
    for at, ((priority, _), arrived) in enumerate(zip(later, arrivals, strict=True)):
        batcher.add(item(str(at), priority=priority, arrived=arrived))
    assert names(batcher.take(1000.0)) == ["first"]
