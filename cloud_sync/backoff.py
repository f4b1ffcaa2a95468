"""How long to wait before the next try, so that a fleet does not come at once."""

from __future__ import annotations

import random

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0


def pause(tries: int) -> float:
    """Full jitter: anything up to a bound that doubles, in seconds."""
    return random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries, 30)))  # noqa: S311
