"""All contestants side by side: interleaved rounds, medians with their spread, one table."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.measure import Sample

LIMIT, AGENT = "in-process limit", "this agent"
FRESH, WARM, PYTHON = "llama-server, fresh", "llama-server, warm", "llama_cpp.server"
_AGAINST = (WARM, FRESH, PYTHON)

Row = list[str]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Tables:
    """Heads and rows of what is shown and what is kept."""

    speed: tuple[Row, list[Row]]
    machine: tuple[Row, list[Row]]


def build(samples: list[Sample]) -> Tables:
    heads = ["clients", "contestant", "tokens/s", "of limit", "TTFT ms p50/p99", "inter-token ms p50/p99"]
    against = ["over warm", "over fresh", "over llama_cpp.server"]
    rows = []
    for clients in sorted({sample.clients for sample in samples}):
        for name in dict.fromkeys(sample.contestant for sample in samples):
            if of := _of(samples, name, clients):
                rows.append(
                    [str(clients), name, *_speed(of, samples, clients), *_agent_ratios(of, samples, clients)]
                )
    machine = [
        _machine(name, samples) for name in dict.fromkeys(s.contestant for s in samples) if name != LIMIT
    ]
    return Tables(
        (heads + against, rows), (["contestant", "cold start to first token", "peak memory"], machine)
    )


def _of(samples: list[Sample], name: str, clients: int) -> list[Sample]:
    return [sample for sample in samples if sample.contestant == name and sample.clients == clients]


def _speed(of: list[Sample], samples: list[Sample], clients: int) -> Row:
    tokens = spread([sample.figures["tokens_per_s"] for sample in of], "{:.0f}".format)
    latencies = [
        "/".join(
            f"{median(sample.figures[f'{kind}_{part}'] for sample in of):.0f}" for part in ("p50", "p99")
        )
        for kind in ("ttft", "gap")
    ]
    return [tokens, _ratio(samples, of[0].contestant, LIMIT, clients), *latencies]


def _agent_ratios(of: list[Sample], samples: list[Sample], clients: int) -> Row:
    if of[0].contestant != AGENT:
        return [""] * len(_AGAINST)
    return [_ratio(samples, AGENT, name, clients) for name in _AGAINST]


def pairs(samples: list[Sample], one: str, other: str, clients: int) -> list[tuple[Figures, Figures]]:
    """The figures of two contestants in the same rounds."""
    of = (_of(samples, name, clients) for name in (one, other))
    return [(ours.figures, theirs.figures) for ours, theirs in zip(*of, strict=False)]


def _ratio(samples: list[Sample], one: str, other: str, clients: int) -> str:
    """Of the tokens/s of the same rounds."""
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs(samples, one, other, clients)]
    return spread(ratios, "{:.2f}".format) if ratios else ""


def _machine(name: str, samples: list[Sample]) -> Row:
    of = [sample for sample in samples if sample.contestant == name]
    starts = [sample.cold_start_s for sample in of if sample.cold_start_s is not None]
    peak = max(sample.peak_bytes or 0 for sample in of)
    return [name, spread(starts, "{:.2f} s".format), f"{peak / 2**20:.0f} MiB"]


def spread(values: list[float], show: Callable[[float], str]) -> str:
    """The median, and least to greatest where there are several."""
    middle = show(median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}–{show(max(values))})"


def show(console: Console, tables: Tables) -> None:
    for heads, rows in (tables.speed, tables.machine):
        table = Table(*heads)
        last = None
        for row in rows:
            if last is not None and row[0] != last and heads[0] == "clients":
                table.add_section()
            last = row[0]
            table.add_row(*row, style="bold" if AGENT in row else None)
        console.print(table)


def machine() -> str:
    """The CPU that this was measured on."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()
