"""What this agent is to reach beside the others with tensors, and whether it did in these samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bench.table import spread
from bench.tensors.contestants import AGENT, LITSERVE, MLSERVER
from bench.tensors.measure import Sample
from bench.tensors.table import LIMIT, OVER, pairs, ratios

MANY = 32  # clients, and more
OF_LIMIT = {
    ("magika", "http"): 0.9,
    ("text-direction", "http"): 0.7,
    ("magika", "grpc"): 0.85,
    ("text-direction", "grpc"): 0.55,
}
OVER_PEERS = {
    ("magika", "http"): 1.0,
    ("text-direction", "http"): 5.0,
    ("magika", "grpc"): 1.0,
    ("text-direction", "grpc"): 4.0,
}
LATENCY_MS = {"http": 0.5, "grpc": 1.0}  # p50 at one client, over the bare session's


@dataclass(frozen=True, slots=True)
class Verdict:
    met: bool
    what: str


def verdicts(samples: list[Sample]) -> Iterator[Verdict]:
    """Each target at each number of clients that was measured."""
    for model in dict.fromkeys(one.model for one in samples):
        of = [one for one in samples if one.model == model]
        for clients in sorted({one.clients for one in of}):
            if clients >= MANY:
                yield from _of_limit(model, clients, of)
                yield from _over_peers(model, clients, of)
        yield from _latency(model, of)


def _of_limit(model: str, clients: int, of: list[Sample]) -> Iterator[Verdict]:
    for protocol in ("http", "grpc"):
        found = ratios(of, (AGENT, protocol), (LIMIT, protocol), clients)
        what = f"{model}, {clients} clients, {protocol}: of the limit beside its clients"
        yield from _at_least(OF_LIMIT[model, protocol], found, what)


def _over_peers(model: str, clients: int, of: list[Sample]) -> Iterator[Verdict]:
    for name, theirs in dict.fromkeys((one.contestant, one.protocol) for one in of):
        if name.startswith((MLSERVER, LITSERVE)):
            ours = OVER[theirs]
            found = ratios(of, (AGENT, ours), (name, theirs), clients)
            what = f"{model}, {clients} clients, {ours}: over {name} ({theirs})"
            yield from _at_least(OVER_PEERS[model, ours], found, what)


def _at_least(least: float, found: list[float], what: str) -> Iterator[Verdict]:
    if found:
        yield Verdict(median(found) >= least, f"{what}: {spread(found, '{:.2f}'.format)}, at least {least}")


def _latency(model: str, of: list[Sample]) -> Iterator[Verdict]:
    for protocol, most in LATENCY_MS.items():
        over = [a["p50"] - b["p50"] for a, b in pairs(of, (AGENT, protocol), (LIMIT, ""), 1)]
        if over:
            what = f"{model}, 1 client, {protocol}: p50 over the bare session's"
            yield Verdict(median(over) <= most, f"{what}: {spread(over, '{:.2f}'.format)} ms, at most {most}")
