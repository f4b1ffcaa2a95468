"""Loads that keep models busy at the same time, in the same window, and what they do to each other."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import httpx

from bench import peers
from bench.measure import outcome
from bench.servers import Running

LEAD_S = 8.0  # before a window: processes start, first answers are under way
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Busy:
    """A load that keeps one model busy."""

    model: str
    module: str
    options: tuple[str, ...]
    rate: str  # the figure that says how much was done

    def during(self, began: float, ended: float) -> Figures:
        return outcome(self.module, *self.options, "--window", str(began), str(ended))


def text(model: str, running: Running, clients: int) -> Busy:
    extra = json.dumps({"ignore_eos": True, "model": model})
    where = ("--url", f"http://127.0.0.1:{running.port}", "--extra", extra)
    return Busy(model, "bench.load", (*where, "--clients", str(clients)), "tokens_per_s")


def tensors(model: str, file: Path, running: Running, clients: int) -> Busy:
    where = ("--model", model, "--file", str(file), "--port", str(running.port))
    return Busy(model, "bench.tensors.load", (*where, "--clients", str(clients)), "per_s")


def together(busy: list[Busy], seconds: float) -> list[Figures]:
    """All at once, measured in the same window."""
    began = perf_counter() + LEAD_S
    with ThreadPoolExecutor(len(busy)) as pool:
        return list(pool.map(lambda one: one.during(began, began + seconds), busy))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models in one round: each one's rate alone, and of both at once."""

    models: tuple[str, str]
    alone: tuple[float, float]
    both: tuple[float, float]

    @property
    def shares(self) -> tuple[float, float]:
        """Of its own speed alone; half of it each is a fair share, and one in all is nothing lost."""
        return self.both[0] / self.alone[0], self.both[1] / self.alone[1]


def pair(one: Busy, other: Busy, seconds: float) -> Pair:
    (first,), (second,) = together([one], seconds), together([other], seconds)
    both = together([one, other], seconds)
    return Pair(
        (one.model, other.model),
        (first[one.rate], second[other.rate]),
        (both[0][one.rate], both[1][other.rate]),
    )


@dataclass(frozen=True, slots=True)
class Disturbed:
    """One round: the tokens of a model alone, and while another is loaded and unloaded all the time."""

    alone: Figures
    beside: Figures
    loads: list[float]  # seconds that each took

    @property
    def ratio(self) -> float:
        return self.beside["gap_p99"] / self.alone["gap_p99"]


def disturbed(one: Busy, second: str, seconds: float) -> Disturbed:
    (alone,) = together([one], seconds)
    began = perf_counter() + LEAD_S
    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(one.during, began, began + seconds)
        loads = load_again_and_again(second, began + seconds)
        return Disturbed(alone, figures.result(), loads)


def load_again_and_again(model: str, until: float) -> list[float]:
    """Load and unload a model until that moment, at least once; the seconds that each load took."""
    took: list[float] = []
    by_socket = httpx.HTTPTransport(uds=str(peers.AGENT_DATA / "agent.sock"))  # where no key is asked for
    with httpx.Client(
        base_url="http://agent/v2/repository/models", transport=by_socket, timeout=120
    ) as client:
        while not took or perf_counter() < until:
            begun = perf_counter()
            client.post(f"/{model}/load").raise_for_status()
            took.append(perf_counter() - begun)
            client.post(f"/{model}/unload").raise_for_status()
    return took
