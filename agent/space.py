"""An amount of memory: of this machine, and of the GPU where that has memory of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes."""

    machine: int = 0
    gpu: int = 0

    def __add__(self, other: Space) -> Space:
        return Space(self.machine + other.machine, self.gpu + other.gpu)

    def __mul__(self, times: int) -> Space:
        return Space(self.machine * times, self.gpu * times)

    def without(self, other: Space) -> Space:
        """What is left of it, or is missing where `other` is what there is. Never negative."""
        return Space(max(0, self.machine - other.machine), max(0, self.gpu - other.gpu))

    def eases(self, short: Space) -> bool:
        """Whether this much freed would help, where so much is missing."""
        return bool((self.machine and short.machine) or (self.gpu and short.gpu))

    def __bool__(self) -> bool:
        return bool(self.machine or self.gpu)
