"""How long to wait before something that is away is tried again."""

from __future__ import annotations

import random

FIRST_S, LONGEST_S = 1.0, 300.0
_DOUBLINGS = 9  # 2 ** 9 > LONGEST_S: an outage of weeks has more tries than a float has room for


def pause(tries: int) -> float:
    """Seconds after the failures before this one. Full jitter: anything up to a bound that doubles.

    A fleet that lost its controller at one moment so comes back spread out.
    """
    return random.uniform(0, min(LONGEST_S, FIRST_S * 2.0 ** min(tries, _DOUBLINGS)))  # noqa: S311
