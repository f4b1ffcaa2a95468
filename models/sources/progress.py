"""How far a pull has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_INTERVAL = 0.1  # seconds between two reports of one phase


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` bytes of a phase; None: not known.

    Phases: "looking up", "waiting" (another pull of the same is under way), "downloading", "unpacking",
    "copying", "checking" (hashing), "quantize" and "measure" where that is asked for, "ready".
    """

    phase: str
    done: int = 0
    total: int | None = None


Report = Callable[[Progress], None]


class Meter:
    """Passes progress on, not oftener than anyone can look. Called on the event loop only."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phase = ""
        self._next = 0.0

    def __call__(self, phase: str, done: int = 0, total: int | None = None) -> None:
        now = time.monotonic()
        if phase != self._phase or now >= self._next or done == total:
            self._phase, self._next = phase, now + _INTERVAL
            self._report(Progress(phase, done, total))
