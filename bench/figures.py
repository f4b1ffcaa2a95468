"""From time stamps to the figures that the table shows. Every contestant is judged by this one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Answer:
    """One request as its client saw it. Times are seconds on the monotonic clock."""

    started: float
    stamps: list[float] = field(default_factory=list)  # when each piece of text arrived
    tokens: int | None = None  # None: it was cut off when the measurement ended
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. Latencies are milliseconds."""

    seconds: float
    requests: int  # answered whole
    tokens_per_s: float
    ttft_p50: float
    ttft_p99: float
    gap_p50: float  # between two pieces of one answer: inter-token latency
    gap_p99: float
    short: int  # answers that did not have the tokens asked for; must be 0
    cached_tokens: float  # of a prompt, on average


def summarise(answers: Sequence[Answer], began: float, ended: float, tokens: int) -> Figures:
    """The figures of the window from `began` to `ended`, in which each answer was to have `tokens` tokens.

    What arrived in the window counts, also of answers that began before it or were not complete at its end.
    """
    inside = [[stamp for stamp in answer.stamps if began <= stamp <= ended] for answer in answers]
    whole = [a for a in answers if a.tokens is not None and began <= a.stamps[-1] <= ended]
    if not whole:
        raise ValueError("no request was answered")
    pieces = sum(len(answer.stamps) for answer in whole)
    per_piece = sum(answer.tokens or 0 for answer in whole) / pieces
    arrived = sum(map(len, inside))
    first = [1000 * (a.stamps[0] - a.started) for a in answers if a.stamps and began <= a.stamps[0] <= ended]
    gaps = np.concatenate([1000 * np.diff(stamps) for stamps in inside])
    gap_p50, gap_p99 = np.percentile(gaps, (50, 99)) if len(gaps) else (0.0, 0.0)
    ttft_p50, ttft_p99 = np.percentile(first, (50, 99)) if first else (0.0, 0.0)
    return Figures(
        seconds=ended - began,
        requests=len(whole),
        tokens_per_s=arrived * per_piece / (ended - began),
        ttft_p50=float(ttft_p50),
        ttft_p99=float(ttft_p99),
        gap_p50=float(gap_p50),
        gap_p99=float(gap_p99),
        short=sum(answer.tokens != tokens for answer in whole),
        cached_tokens=sum(answer.cached_tokens for answer in whole) / len(whole),
    )
