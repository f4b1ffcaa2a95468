"""What this agent is to reach beside the others, and whether it did in these samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bench.measure import Sample
from bench.table import AGENT, FRESH, LIMIT, PYTHON, WARM, pairs

FULL = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Target:
    """The agent's figure over another's, at some numbers of clients: at least `least`, or at most `most`."""

    other: str
    clients: tuple[int, ...]
    figure: str = "tokens_per_s"
    least: float = 0.0
    most: float = float("inf")


TARGETS = (
    Target(LIMIT, FULL, least=0.95),
    Target(WARM, (8, 16), least=1.5),
    Target(WARM, (32,), least=1.0),
    Target(FRESH, FULL, least=0.97),
    Target(WARM, FULL, "ttft_p50", most=1.0),
    Target(FRESH, FULL, "ttft_p50", most=1.0),
    Target(WARM, FULL, "gap_p99", most=1.0),
    Target(FRESH, (1,), least=0.95),
    Target(PYTHON, FULL, least=2.0),
)


def verdicts(samples: list[Sample]) -> Iterator[tuple[bool, str]]:
    """Each target at each number of clients that was measured: whether it is met, and by how much."""
    for target in TARGETS:
        for clients in target.clients:
            found = [
                ours[target.figure] / theirs[target.figure]
                for ours, theirs in pairs(samples, AGENT, target.other, clients)
            ]
            if not found:
                continue
            asked = f"at least {target.least}" if target.least else f"at most {target.most}"
            spread = f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"
            what = f"{target.figure} at {clients} clients over {target.other}: {spread}, {asked}"
            yield target.least <= median(found) <= target.most, what
