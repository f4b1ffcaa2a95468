"""A node's clock may be wrong by years, and may have been set right since."""

from __future__ import annotations

import math
from dataclasses import dataclass

DAY = 86400.0
NOTICED_S = 60.0  # less is the way that the batch took


@dataclass(frozen=True, slots=True)
class Times:
    """Of one batch: when it came, how far the node's clock was ahead then, since when the node is one."""

    now: float
    skew_s: float
    joined_at: float

    @classmethod
    def of(cls, now: float, sent_at: float, joined_at: float) -> Times:
        return cls(now, sent_at - now if math.isfinite(sent_at) else 0.0, joined_at)

    def placed(self, at: float) -> float:
        """`at` by the controller's clock; what cannot be was now."""
        if abs(self.skew_s) > NOTICED_S:
            at -= self.skew_s
        return at if self.joined_at - DAY <= at <= self.now + NOTICED_S else self.now

    def told(self, at: float) -> float:
        """`at` as a database takes it."""
        return at if math.isfinite(at) else self.now
