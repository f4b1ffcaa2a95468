"""A node's rows arrive once each and in order, whatever a link does with batches and answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.controller.telemetry.marks import new
from cloud_sync.messages import Row

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 5)),
        st.tuples(st.just("send"), st.integers(1, 6)),
        st.tuples(st.just("send, and the answer is lost"), st.integers(1, 6)),
        st.tuples(st.just("an old batch comes late"), st.integers(0, 100)),
        st.tuples(st.just("give up"), st.integers(1, 4)),
    ),
    max_size=60,
)


def row(seq: int, first: int | None = None) -> Row:
    return Row(seq=seq, first=first, at=0.0, kind="event" if first is None else "gap")


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_each_row_is_taken_once_in_order_and_nothing_is_missing(steps: list[tuple[str, int]]) -> None:
    node: list[Row] = []
    written, seq, ahead = 0, 0, 0
    taken: list[int] = []
    batches: list[list[Row]] = [[]]
    for step, number in [*steps, ("send", 1000)]:
        if step == "write":
            node += [row(written + n) for n in range(1, number + 1)]
            written += number
        elif step == "give up" and node:
            gone, node = node[:number], node[number:]
            node.insert(0, row(gone[-1].seq, gone[0].first or gone[0].seq))
        elif step != "give up":
            batch = batches[number % len(batches)] if "late" in step else node[:number]
            batches.append(batch)
            found = new(seq, ahead, batch)
            seq, ahead = found.seq, found.ahead
            assert found.lost is None
            taken += [n for one in found.rows for n in range(one.first or one.seq, one.seq + 1)]
            if step == "send":
                node = [one for one in node if one.seq > seq]
    assert taken == list(range(1, written + 1))


def test_rows_beyond_a_hole_wait_and_a_batch_that_begins_there_twice_ends_it() -> None:
    assert new(2, 0, [row(3), row(5)]) == ([row(3)], 3, None, 0)
    assert new(3, 0, [row(5), row(6)]) == ([], 3, None, 5)
    assert new(3, 5, [row(6)]) == ([], 3, None, 6)  # another place
    assert new(3, 5, [row(5), row(6)]) == ([row(5), row(6)], 6, (4, 4), 0)
    assert new(3, 5, [row(4), row(5)]) == ([row(4), row(5)], 5, None, 0)
    assert new(3, 5, []) == ([], 3, None, 0)
