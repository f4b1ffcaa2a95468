"""Which waiting Inferences run together next. Does no I/O and is handed the clock.

Together run those whose inputs have the same names, datatypes and shapes but for the first axis, as many rows
as the cap allows. Greedy: nobody waits for company unless `delay` says so.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field

AGING_S = 5.0
"""Seconds of waiting that are worth one priority, so that nobody starves."""


@dataclass(slots=True, eq=False)
class Item:
    id: str
    kind: Hashable  # of its inputs: only equals run together
    rows: int
    priority: int
    arrived: float
    deadline: float | None


@dataclass(slots=True)
class Batcher:
    """`cap`: rows of a batch, at most; an item with more runs alone. `best`: rows worth waiting for."""

    cap: int
    best: int = 1
    delay: float = 0.0  # seconds that an item may wait for company
    _waiting: list[Item] = field(default_factory=list)  # whose turn it is first

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: Item) -> None:
        insort(self._waiting, item, key=lambda one: one.arrived - AGING_S * one.priority)

    def remove(self, id: str) -> bool:
        kept = [one for one in self._waiting if one.id != id]
        found = len(kept) < len(self._waiting)
        self._waiting = kept
        return found

    def late(self, now: float) -> list[Item]:
        """Take out those past their deadlines."""
        gone = [one for one in self._waiting if one.deadline is not None and one.deadline <= now]
        if gone:
            self._waiting = [one for one in self._waiting if one not in gone]
        return gone

    def take(self, now: float) -> list[Item]:
        """The next batch, in order; empty: nothing is to run yet."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch: list[Item] = []
        rows = 0
        for one in self._waiting:
            if one.kind == first.kind and (not batch or rows + one.rows <= self.cap):
                batch.append(one)
                rows += one.rows
                if rows >= self.cap:
                    break
        if rows < self.best and now < first.arrived + self.delay:
            return []
        chosen = set(map(id, batch))
        self._waiting = [one for one in self._waiting if id(one) not in chosen]
        return batch

    def due(self) -> float | None:
        """When `take` may have something that it has not now; None: when something comes."""
        return self._waiting[0].arrived + self.delay if self._waiting and self.delay else None
