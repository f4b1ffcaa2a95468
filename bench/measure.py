"""One measurement of one contestant, in processes of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.servers import KV, KV_CHOICES, Running, Server, Setup, cpp, started

_salts = itertools.count(1)  # no measurement repeats another's prompts

Arrangement = tuple[str, bool, bool]
ARRANGEMENTS: tuple[Arrangement, ...] = tuple(
    (kv, flash, together) for kv, flash in KV_CHOICES for together in (True, False)
)
"""Of the limit: KV type, flash attention, and whether prompts that begin together share a llama_decode."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """What one measurement found. Times in milliseconds, or seconds where the name says so."""

    contestant: str
    clients: int
    figures: dict[str, float]
    cold_start_s: float | None = None
    peak_bytes: int | None = None
    note: str = ""


def requests(clients: int, waves: int) -> int:
    return max(2 * waves, waves * clients)


def serve(server: Server, clients: int, waves: int) -> Sample:
    """Start it, warm it if it is to be warm, load it in a closed loop."""
    count = clients + 4 if server.serial else requests(clients, waves)
    with started(server) as running:
        if server.warm:
            scatter(server, running)
        figures = load(server, running, "--clients", str(clients), "--requests", str(count))
        return Sample(
            contestant=server.name,
            clients=clients,
            figures=figures,
            cold_start_s=running.cold_start_s,
            peak_bytes=running.peak_bytes(),
        )


def scatter(server: Server, running: Running) -> None:
    """Answers of all lengths at once: what leaves a server's slots as a day's work leaves them."""
    load(server, running, "--clients", "24", "--requests", "48", "--tokens", "32", "--spread", "--no-warm-up")


def load(server: Server, running: Running, *options: str) -> dict[str, float]:
    """The figures of a load process against a running server."""
    where = ["--url", f"http://127.0.0.1:{running.port}", "--extra", json.dumps(dict(server.extra))]
    return outcome("bench.load", *where, "--salt", str(next(_salts)), *options)


def limit(setup: Setup, arrangement: Arrangement, clients: int, waves: int) -> Sample:
    """The in-process limit in one arrangement."""
    kv, flash, together = arrangement
    options = ["--model", str(setup.model), "--threads", str(setup.threads), "--kv", kv]
    options += [] if flash else ["--no-fa"]
    options += [] if together else ["--apart"]
    count = str(requests(clients, waves))
    figures = outcome("bench.limit", *options, "--clients", str(clients), "--requests", count)
    note = (
        f"{kv} KV, flash attention {'on' if flash else 'off'}, prompts {'together' if together else 'apart'}"
    )
    return Sample(contestant="in-process limit", clients=clients, figures=figures, note=note)


def best_arrangement(setup: Setup, clients: int) -> Arrangement:
    """The fastest way for the limit to answer so many at once, by a short trial of each."""
    speeds = {one: limit(setup, one, clients, 1).figures["tokens_per_s"] for one in ARRANGEMENTS}
    return max(speeds, key=lambda one: speeds[one])


def best_kv(setup: Setup, binary: Path) -> KV:
    """llama-server's: the best of two short trials of each, in turns, with 16 clients."""
    trials = [
        (serve(cpp(setup, binary, kv, warm=False), 16, 1).figures["tokens_per_s"], kv)
        for kv in KV_CHOICES * 2
    ]
    return max(trials)[1]


def outcome(module: str, *options: str) -> dict[str, float]:
    """The figures of a measurement in a process of its own."""
    command = [sys.executable, "-m", module, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rows(samples: list[Sample]) -> list[dict[str, Any]]:
    return [asdict(sample) for sample in samples]
