"""`python -m bench.curve`: smoothness against throughput, over the size of the pieces of a prompt's prefill.

Large pieces are good for tokens/s, and make those wait who already get tokens. Each contestant is measured at
each of its piece sizes: in closed loops, and with arrivals at random moments, where no server looks smooth by
making its clients wait for each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import measure, peers, servers
from bench.servers import Server, Setup, started

PIECES = (16, 32, 64, 128, 256)
TARGETS = (25, 50, 100)  # ms: the agent sizes its pieces by what a step may take
BATCHES = (48, 64, 96, 160, 288)  # llama-server's -b, which holds the 32 slots' own tokens too
LOADS = ("closed, 16 clients", "closed, 32 clients", "open")


@dataclasses.dataclass(slots=True)
class Point:
    """One contestant at one setting under one load; figures of all rounds."""

    contestant: str
    setting: str
    load: str
    figures: list[dict[str, float]]

    def middle(self, name: str) -> float:
        return median(one[name] for one in self.figures)


def points(setup: Setup, only: list[str], console: Console) -> list[tuple[str, Server]]:
    """All settings of all contestants."""
    found: list[tuple[str, Server]] = []
    if "agent" in only:
        found += [(f"{p} tokens", servers.agent(setup, AUTOGLM_PREFILL_PIECE=str(p))) for p in PIECES]
        found += [(f"{t} ms a step", servers.agent(setup, AUTOGLM_STEP_TARGET_MS=str(t))) for t in TARGETS]
    if "cpp" in only:
        binary = peers.cpp_server(console)
        with console.status("llama-server: which KV cache suits it best?"):
            kv = measure.best_kv(setup, binary)
        for size in BATCHES:
            options = ("-b", str(size), "-ub", str(size))
            server = servers.cpp(setup, binary, kv, warm=True, options=options)
            found.append((f"-b {size}", server))
    return found


def measure_all(server: Server, rate: float, waves: int) -> dict[str, dict[str, float]]:
    """The figures of each load, one after the other, on one running server."""
    with started(server) as running:
        measure.scatter(server, running)
        arrivals = ("--rate", f"{rate:.3f}", "--requests", str(24 * waves))
        options = {LOADS[2]: arrivals}
        for load, clients in zip(LOADS, (16, 32), strict=False):
            options[load] = ("--clients", str(clients), "--requests", str(clients * waves))
        return {load: measure.load(server, running, *options[load]) for load in LOADS}


def run(setup: Setup, args: argparse.Namespace, console: Console) -> list[Point]:
    rate = args.rate or _rate(setup, console)
    console.print(f"Open loop: {rate:.2f} requests a second, at the same random moments for all")
    contestants = points(setup, args.only, console)
    found: dict[tuple[str, str, str], Point] = {}
    for round_ in range(args.rounds):
        for setting, server in contestants:
            name = server.name.partition(",")[0]
            with console.status(f"round {round_ + 1}: {name}, {setting}"):
                of_loads = measure_all(server, rate, args.waves)
            for load, figures in of_loads.items():
                point = found.setdefault((load, name, setting), Point(name, setting, load, []))
                point.figures.append(figures)
            console.print(f"round {round_ + 1}: {name}, {setting}")
            _keep(list(found.values()), rate)
    return sorted(found.values(), key=lambda point: LOADS.index(point.load))


def _rate(setup: Setup, console: Console) -> float:
    """Seven tenths of what the in-process limit could answer with 16 clients."""
    with console.status("How much can this machine take?"):
        limit = measure.limit(setup, measure.ARRANGEMENTS[0], 16, 2)
    return 0.7 * limit.figures["tokens_per_s"] / 64


HEADS = (
    "load",
    "contestant",
    "setting",
    "tokens/s",
    "TTFT p50",
    "TTFT p99",
    "inter-token p50",
    "inter-token p99",
)


def cells(point: Point) -> list[str]:
    names = ("tokens_per_s", "ttft_p50", "ttft_p99", "gap_p50", "gap_p99")
    return [point.load, point.contestant, point.setting, *(f"{point.middle(name):.0f}" for name in names)]


def _keep(found: list[Point], rate: float) -> None:
    rows = [dataclasses.asdict(point) for point in found]
    (peers.CACHE / "curve.json").write_text(json.dumps({"rate": rate, "points": rows}, indent=1))


def markdown(found: list[Point]) -> str:
    rows = [HEADS, ["---"] * len(HEADS), *map(cells, found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.curve", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=("agent", "cpp"), default=["agent", "cpp"])
    parser.add_argument(
        "--rate", type=float, help="arrivals a second; default: 0.7 of the limit with 16 clients"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waves", type=int, default=3, help="requests for each client in a measurement")
    parser.add_argument("--model", type=Path, help="a GGUF file with SmolLM2's chat template")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    found = run(Setup(args.model or peers.model(console)), args, console)
    table = Table(*HEADS)
    for point in found:
        table.add_row(*cells(point), end_section=point is found[-1])
    console.print(table)
    (peers.CACHE / "curve.md").write_text(markdown(found))
    console.print(f"Kept: {peers.CACHE / 'curve.md'} and curve.json (milliseconds, medians)")


if __name__ == "__main__":
    main()
