"""The fair queue and the token buckets, driven by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.admission import AGING_S, Bucket, FairQueue, Waiting


def test_a_bucket_gives_a_burst_then_its_rate() -> None:
    bucket = Bucket(60, now=0.0)
    for _ in range(60):
        assert bucket.wait(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait(1, 1.01) == 0


def test_more_than_a_burst_wants_a_full_bucket_and_its_debt_is_waited_out() -> None:
    bucket = Bucket(60, now=0.0)
    assert bucket.wait(180, 0.0) == 0
    bucket.take(180, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(121)
    assert bucket.wait(180, 0.0) == pytest.approx(180)


def test_senders_take_turns_however_many_requests_one_of_them_has() -> None:
    queue: FairQueue[str] = FairQueue()
    for at in range(50):
        queue.push(Waiting(f"greedy{at}", "greedy", 5, 100, 0.0))
    for at in range(3):
        queue.push(Waiting(f"modest{at}", "modest", 5, 100, 0.0))
    first = [queue.pop(0.0) for _ in range(7)]
    assert sum(name.startswith("modest") for name in first) == 3


def test_a_low_priority_is_served_in_the_end_though_higher_ones_keep_coming() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push(Waiting("low", "a", 0, 10, 0.0))
    now = 0.0
    for at in range(200):
        now += 1.0
        queue.push(Waiting(f"high{at}", "b", 9, 10, now))
        if queue.pop(now) == "low":
            assert now <= 10 * AGING_S + 2
            return
    raise AssertionError("it starved")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 500)), max_size=30))
def test_everyone_who_waits_is_served_once(entries: list[tuple[str, int, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    for at, (sender, priority, cost) in enumerate(entries):
        queue.push(Waiting(at, sender, priority, cost, 0.0))
    served = [queue.pop(1.0) for _ in entries]
    assert sorted(served) == list(range(len(entries)))
    assert queue.tokens == 0
    by = {at: (priority, sender) for at, (sender, priority, _) in enumerate(entries)}
    assert [by[at][0] for at in served] == sorted((by[at][0] for at in served), reverse=True)


def crowd(**waiting: int) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for sender, count in waiting.items():
        for at in range(count):
            queue.push(Waiting(f"{sender}{at}", sender, 5, 10, 0.0))
    return queue


def test_who_has_most_makes_room_for_a_modest_sender_by_its_newest() -> None:
    queue = crowd(greedy=5, modest=1)
    assert queue.crowd_out("modest", 2, 0) == ["greedy4", "greedy3"]
    assert queue.crowd_out("third", 0, 15) == ["greedy2", "greedy1"]
    assert (len(queue), queue.tokens) == (2, 20)


@pytest.mark.parametrize(("requests", "tokens"), [(9, 0), (0, 1000)])
def test_where_room_cannot_be_made_nobody_goes(requests: int, tokens: float) -> None:
    queue = crowd(greedy=5, modest=1)
    assert queue.crowd_out("modest", requests, tokens) is None
    assert (len(queue), queue.tokens) == (6, 60)
