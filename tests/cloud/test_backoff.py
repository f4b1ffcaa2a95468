"""A fleet that lost its controller at one moment does not come back at one."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

from cloud_sync.backoff import LONGEST_PAUSE_S, pause

FLEET = 500
DAY_S = 86400


def tries(until: float) -> list[float]:
    """When one link tries, from the moment at which its connection was cut to the first try that succeeds."""
    found, now = [0.0], 0.0
    while now < until:
        now += pause(len(found) - 1)
        found.append(now)
    return found


def test_a_fleet_comes_back_spread_out() -> None:
    random.seed(1)
    for away_s in (30, 120, 3600):
        links = [tries(away_s) for _ in range(FLEET)]
        arrivals = Counter(int(one[-1]) for one in links)
        assert max(arrivals.values()) < FLEET / 10, f"after {away_s} s"
        assert max(arrivals) < away_s + LONGEST_PAUSE_S + 1
        late = Counter(int(at) for one in links for at in one if at > away_s / 2)
        assert max(late.values()) < FLEET / 5, "while it is away, nobody hammers either"


def test_a_link_that_was_away_for_weeks_still_tries() -> None:
    random.seed(2)
    at = list(islice(tries(60 * DAY_S), 100_000))
    assert at[-1] > 60 * DAY_S
    assert len(at) < 60 * DAY_S / (LONGEST_PAUSE_S / 4)
    assert 0 <= pause(10**6) <= LONGEST_PAUSE_S
