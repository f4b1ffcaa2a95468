"""From the moments of requests to the figures that the table shows: one file for all contestants."""

from __future__ import annotations

import json
from array import array
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np

WARM_S = 1.0


@dataclass(slots=True)
class Log:
    """What happened, in the order of the answers. Times are seconds on the monotonic clock."""

    started: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    errors: int = 0

    def answered(self, started: float, ended: float) -> None:
        self.started.append(started)
        self.ended.append(ended)


@dataclass(frozen=True, slots=True)
class Window:
    """Two moments on a clock that all processes share. Load before it only warms up."""

    began: float
    ended: float


def window_of(seconds: float) -> Window:
    """From a moment on, when all has warmed up."""
    began = perf_counter() + WARM_S
    return Window(began, began + seconds)


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. Latencies are milliseconds."""

    requests: int
    per_s: float  # requests (rows) a second
    p50: float
    p99: float
    errors: int
    load_us: float  # CPU of the load process for each request, in microseconds


def show(figures: Figures, *, as_json: bool) -> None:
    """What a measuring process prints."""
    of = asdict(figures)
    print(json.dumps(of) if as_json else "\n".join(f"{name:>14} {value:10.2f}" for name, value in of.items()))


def summarise(log: Log, window: Window, load_s: float, rows: int = 1) -> Figures:
    """Each entry of the log answers `rows` requests; `load_s` is CPU within the window."""
    started, ended = np.array(log.started), np.array(log.ended)
    inside = (ended >= window.began) & (ended <= window.ended)
    took = 1000 * (ended - started)[inside]
    if not len(took):
        raise ValueError("no request was answered")
    p50, p99 = np.percentile(took, (50, 99))
    requests = len(took) * rows
    return Figures(
        requests=requests,
        per_s=requests / (window.ended - window.began),
        p50=float(p50),
        p99=float(p99),
        errors=log.errors,
        load_us=1e6 * load_s / requests,
    )
