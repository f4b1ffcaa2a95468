"""`python -m bench turns FORMER`: the agent of another tree and this one's, by turns, with tensors.

What each costs in CPU is told by process: on a shared machine that says more than the clock does. Both run
their models in the same way, which is set, so that no trial's chance is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.table import Table

from bench import peers, report, servers, tiny
from bench.measure import outcome
from bench.servers import Running, Server
from bench.table import machine
from bench.tensors import contestants
from bench.tensors.cases import ROWS, Case, case, on_shelf
from bench.tensors.contestants import Contestant

FORMER, NOW = "former", "now"
CAPS = {"tiny": 8, "magika": 1, "text-direction": 4}  # rows of a batch: what trials choose on two such cores
PROTOCOLS = ("http", "grpc")
START_S = 5.0  # until a load process is there and its clients have warmed up
SHOWN = {"per_s": ".0f", "p50": ".2f", "agent_us": ".0f", "worker_us": ".0f", "load_us": ".0f"}
HEADS = ["model", "by", "clients", "agent", "requests/s", "p50 ms", "agent µs", "Worker µs", "load µs"]


@dataclass(frozen=True, slots=True)
class Sample:
    model: str
    protocol: str
    clients: int
    agent: str
    figures: dict[str, float]


def of_tree(name: str, tree: Path, asked: Case, folder: Path) -> Contestant:
    config = folder / f"{name}.toml"
    runners = os.cpu_count() or 1
    how = f"cap = {CAPS[asked.model]}\nrunners = {runners}\nlone_threads = 1\n"
    config.write_text(f'[models."{asked.model}"]\n{how}')
    usual = servers.untuned_agent(AUTOGLM_MODEL=str(asked.path), AUTOGLM_CONFIG=str(config))
    data = {"AUTOGLM_DATA_DIR": str(folder / name), "PYTHONPATH": str(tree)}
    command = [sys.executable, "-P", "-c", "from agent.cli import main; main()", "serve"]
    server = Server(name=f"agent {name}", command=command, environment={**usual.environment, **data})
    return Contestant(name, server, PROTOCOLS)


def measure(model: str, args: argparse.Namespace, folder: Path) -> Iterator[Sample]:
    asked = _case(model, folder)
    with ExitStack() as stack:
        running = {}
        for name, tree in ((FORMER, args.former), (NOW, peers.ROOT)):
            one = of_tree(name, tree, asked, folder)
            answers = contestants.answers(one, asked, tuple(args.protocols))
            running[name] = stack.enter_context(servers.started(one.server, answers))
        for _ in range(args.rounds):
            for protocol in args.protocols:
                for clients in args.clients:
                    for name, process in running.items():
                        figures = _load(asked, process, protocol, clients, args.seconds)
                        yield Sample(model, protocol, clients, name, figures)


def _case(model: str, folder: Path) -> Case:
    if model == "tiny":
        return tiny.model(folder)
    found = on_shelf(model, lambda step: None)
    path = folder / f"{model}.onnx"
    shutil.copyfile(found.path, path)
    return case(model, path, ROWS[model])


def _load(asked: Case, running: Running, protocol: str, clients: int, seconds: float) -> dict[str, float]:
    """The load's figures, and microseconds of CPU for each request in the agent and in its Worker."""
    port = running.grpc if protocol == "grpc" else running.port
    what = ("--model", asked.model, "--file", str(asked.path), "--protocol", protocol)
    began = time.perf_counter() + START_S
    window = ("--window", str(began), str(began + seconds))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            outcome, "bench.tensors.load", *what, "--port", str(port), "--clients", str(clients), *window
        )
        time.sleep(began - time.perf_counter())
        before = _cpu_s(running)
        time.sleep(began + seconds - time.perf_counter())
        after = _cpu_s(running)
        figures = loading.result()
    for kind, first, last in zip(("agent_us", "worker_us"), before, after, strict=True):
        figures[kind] = 1e6 * (last - first) / figures["requests"]
    return figures


def _cpu_s(running: Running) -> tuple[float, float]:
    first, *others = servers.tree(running.process.pid)
    return servers.cpu_s(first), sum(map(servers.cpu_s, others))


def rows(samples: list[Sample]) -> list[list[str]]:
    """Medians of the rounds."""
    kinds: dict[tuple[str, str, int, str], list[dict[str, float]]] = {}
    for one in samples:
        kinds.setdefault((one.model, one.protocol, one.clients, one.agent), []).append(one.figures)
    return [
        [
            *map(str, kind),
            *(f"{median(figures[name] for figures in of):{form}}" for name, form in SHOWN.items()),
        ]
        for kind, of in kinds.items()
    ]


def main() -> None:
    args = _arguments()
    console = report.console(args.json)
    report.warn_of_company(console)
    how = f"{args.rounds} rounds of {args.seconds:g} s, by turns; medians"
    notes = [f"{machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; {how}"]
    samples: list[Sample] = []
    for model in args.models:
        with TemporaryDirectory() as folder, console.status(f"{model}, by turns"):
            for sample in measure(model, args, Path(folder)):
                samples.append(sample)
                report.keep("turns", notes, [asdict(one) for one in samples])
    table = Table(*HEADS)
    for cells in rows(samples):
        table.add_row(*cells)
    console.print(table)
    console.print("\n".join(notes), highlight=False)
    report.end("turns", console, [(HEADS, rows(samples))], notes, as_json=args.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench turns", description=__doc__)
    parser.add_argument(
        "former", type=Path, help="a folder with the other tree's source, as `git worktree add` makes it"
    )
    parser.add_argument("--models", nargs="+", choices=tuple(CAPS), default=list(CAPS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="all samples on stdout; the table goes to stderr")
    return parser.parse_args()
