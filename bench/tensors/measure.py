"""One measurement of one contestant, in a process of its own, and the trials that find each one's best."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.measure import outcome
from bench.servers import Running
from bench.tensors.cases import Case
from bench.tensors.contestants import Choice, Contestant, awake, started
from bench.tensors.limit import Arrangement, arrangements

TRIAL_S = 2.0
TRIAL_CLIENTS = 32
CORES = os.cpu_count() or 1
CHOICES = tuple(Choice(cap, workers) for cap in (1, 2, 4, 8) for workers in dict.fromkeys((1, CORES)))
"""Of a peer, tried for its best; a cap of 1 is no batching."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`protocol` of the limit: whose clients' CPU is burned beside it; "" is none."""

    model: str
    contestant: str
    protocol: str
    clients: int
    figures: dict[str, float]


def load(
    asked: Case, one: Contestant, running: Running, protocol: str, clients: int, seconds: float
) -> Sample:
    port = running.grpc if protocol == "grpc" else running.port
    where = ("--protocol", protocol, "--port", str(port), "--clients", str(clients))
    with awake(one, running):
        figures = outcome("bench.tensors.load", *_what(asked, seconds), *where)
    return Sample(asked.model, one.name, protocol, clients, figures)


def limit(asked: Case, how: Arrangement, seconds: float, burn_us: float = 0) -> dict[str, float]:
    options = ("--rows", how.rows, "--runs", how.runs, "--threads", how.threads, "--burn", burn_us)
    return outcome("bench.tensors.limit", *_what(asked, seconds), *map(str, options))


def best_limits(asked: Case, counts: Iterable[int]) -> dict[int, Arrangement]:
    """For each number of clients the fastest that has no more rows at once than there are clients.

    The better of two trials of each, in turns. For one client that is also the one of least latency.
    """
    speeds: dict[Arrangement, float] = {}
    for how in arrangements(CORES) * 2:
        if how.rows * how.runs <= max(counts):
            speeds[how] = max(speeds.get(how, 0.0), limit(asked, how, TRIAL_S / 2)["per_s"])
    return {
        clients: max((how for how in speeds if how.rows * how.runs <= clients), key=lambda how: speeds[how])
        for clients in counts
    }


def best_choices(
    asked: Case, make: Callable[[Choice], Contestant], protocols: tuple[str, ...]
) -> list[Contestant]:
    """The peer at the choice that is best for each protocol: one, or two where they differ."""
    speeds: dict[str, dict[Choice, float]] = {}
    for choice in CHOICES:
        one = make(choice)
        with ExitStack() as stack:
            running = stack.enter_context(started(one, asked, protocols))
            for protocol in one.protocols:
                if protocol in protocols:
                    sample = load(asked, one, running, protocol, TRIAL_CLIENTS, TRIAL_S)
                    speeds.setdefault(protocol, {})[choice] = sample.figures["per_s"]
    best = {protocol: max(of, key=lambda choice: of[choice]) for protocol, of in speeds.items()}
    return [
        Contestant(one.name, one.server, tuple(p for p, other in best.items() if other == choice))
        for choice, one in ((choice, make(choice)) for choice in dict.fromkeys(best.values()))
    ]


def _what(asked: Case, seconds: float) -> tuple[str, ...]:
    return "--model", asked.model, "--file", str(asked.path), "--seconds", str(seconds)
