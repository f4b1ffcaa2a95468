"""Which rows of a batch are new: those that follow on what is here, with nothing left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloud_sync.messages import Row


class New(NamedTuple):
    rows: list[Row]
    """In order. One that stands for several, of which some are here, stands for the others."""
    seq: int
    """The highest that is here now."""
    lost: tuple[int, int] | None = None
    """The first and last of those that are neither here nor on the node."""
    ahead: int = 0
    """Where the batch begins, if it left something out; its rows are not taken."""


def new(seq: int, ahead: int, rows: Sequence[Row]) -> New:
    """`seq`: the highest that is here; `ahead`: of the batch before.

    A node sends the oldest rows that it has. If it begins twice at one place beyond `seq`, though it was told
    `seq` in between, it has nothing before that: a backup was restored here, and what it had acked is lost.
    """
    rows = sorted(rows, key=lambda row: (_first(row), row.seq))
    lost = None
    if rows and (begin := _first(rows[0])) > seq + 1:
        if begin != ahead:
            return New([], seq, ahead=begin)
        lost, seq = (seq + 1, begin - 1), begin - 1
    found = []
    for row in rows:
        if _first(row) > seq + 1:
            break
        if row.seq > seq:
            found.append(row if row.first is None else row.model_copy(update={"first": seq + 1}))
            seq = row.seq
    return New(found, seq, lost)


def _first(row: Row) -> int:
    return min(row.first or row.seq, row.seq)
