"""How long to wait, so that the average stays under a rate."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """What is sent goes in one piece; what follows waits until the link would have been through with it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._free_at = 0.0

    @property
    def ahead_s(self) -> float:
        """How long what was taken lasts from now on, in seconds."""
        return max(0.0, self._free_at - self._clock())

    def take(self, seconds: float) -> None:
        """Something goes that is worth so much of the rate's time."""
        self._free_at = self._clock() + self.ahead_s + seconds
