"""Who may come in and whose turn it is: token buckets and the fair queue. No I/O; handed the clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

AGING_S = 5.0
"""Seconds of waiting that are worth one priority, so that nobody starves."""


class Bucket:
    """`per_minute` units flow in; a minute's worth may be taken at once."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._level = per_minute
        self._at = now

    def wait(self, units: float, now: float) -> float:
        """Seconds until so many can be taken; 0: now. More than a minute's worth wants a full bucket."""
        self._refill(now)
        return max(0.0, min(units, self.per_minute) - self._level) * 60 / self.per_minute

    def take(self, units: float, now: float) -> None:
        """What is over the level is a debt, and waited out. Negative units are given back."""
        self._refill(now)
        self._level = min(self.per_minute, self._level - units)

    def full(self, now: float) -> bool:
        self._refill(now)
        return self._level >= self.per_minute

    def _refill(self, now: float) -> None:
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now


T = TypeVar("T")


@dataclass(slots=True)
class Waiting(Generic[T]):
    item: T
    sender: str
    priority: int
    cost: float  # tokens, estimated
    since: float


@dataclass(slots=True)
class FairQueue(Generic[T]):
    """Highest priority first, aged by waiting; then the sender that had least of late; then the oldest.

    What a sender had is counted in tokens, from the level of the others that wait: who comes back after a
    pause has no credit to spend on them.
    """

    entries: list[Waiting[T]] = field(default_factory=list)
    tokens: float = 0.0  # cost of all that wait
    _had: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def push(self, entry: Waiting[T], *, again: bool = False) -> None:
        """With `again` it was out before, and goes to the front of its equals."""
        waiting = {one.sender for one in self.entries}
        if entry.sender not in waiting:
            floor = min((self._had[sender] for sender in waiting), default=0.0)
            if not waiting:
                self._had.clear()
            self._had[entry.sender] = max(self._had.get(entry.sender, 0.0), floor)
        if again:
            self.entries.insert(0, entry)
        else:
            self.entries.append(entry)
        self.tokens += entry.cost

    def peek(self, now: float) -> T:
        """Whose turn it is. IndexError: nobody waits."""
        return self.entries[self._next(now)].item

    def pop(self, now: float) -> T:
        """Let in whose turn it is. IndexError: nobody waits."""
        best = self._next(now)
        entry = self.entries[best]
        self._had[entry.sender] += entry.cost
        self._drop(best)
        return entry.item

    def crowd_out(self, sender: str, requests: int, tokens: float) -> list[T] | None:
        """Make room for so much of a sender that has less than its share: who has most loses the newest.

        None: that cannot be, and nobody has gone.
        """
        left = list(self.entries)
        gone: list[Waiting[T]] = []
        while requests > len(gone) or tokens > sum(entry.cost for entry in gone):
            waiting = Counter(entry.sender for entry in left)
            heaviest, most = max(waiting.items(), key=lambda one: one[1], default=("", 0))
            if waiting[sender] + 1 >= most:
                return None
            newest = max(at for at, entry in enumerate(left) if entry.sender == heaviest)
            gone.append(left.pop(newest))
        for entry in gone:
            self._drop(self.entries.index(entry))
        return [entry.item for entry in gone]

    def remove(self, item: T) -> bool:
        for at, entry in enumerate(self.entries):
            if entry.item is item:
                self._drop(at)
                return True
        return False

    def _next(self, now: float) -> int:
        if not self.entries:
            raise IndexError("nobody waits")
        return max(
            range(len(self.entries)),
            key=lambda at: (self._urgency(self.entries[at], now), -self._had[self.entries[at].sender], -at),
        )

    def _drop(self, at: int) -> None:
        self.tokens -= self.entries[at].cost
        del self.entries[at]

    def _urgency(self, entry: Waiting[T], now: float) -> int:
        return entry.priority + int((now - entry.since) / AGING_S)
