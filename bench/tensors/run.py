"""`python -m bench tensors`: this agent with ONNX models beside onnxruntime alone, MLServer and LitServe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from bench import report
from bench.servers import Running
from bench.table import machine
from bench.tensors import contestants, measure
from bench.tensors.cases import ROWS, Case, on_shelf
from bench.tensors.contestants import AGENT, Contestant
from bench.tensors.limit import Arrangement
from bench.tensors.measure import Sample
from bench.tensors.table import HEADS, LIMIT, by, rows
from bench.tensors.targets import verdicts
from bench.tensors.wire import PROTOCOLS

ALL = ("limit", "agent", "mlserver", "litserve")


@dataclass(slots=True)
class Bench:
    """One run, and what it has found so far."""

    args: argparse.Namespace
    console: Console
    samples: list[Sample]
    notes: list[str]

    def model(self, name: str) -> None:
        """All measurements of one model. Its servers all stand ready, and are asked one at a time."""
        with self.console.status(f"{name}: on the shelf?") as status:
            asked = on_shelf(name, lambda step: status.update(f"{name}: {step}"))
        limits = self._limits(asked)
        found = list(self._contestants(asked))
        with ExitStack() as stack:
            running = []
            for one in found:
                with self.console.status(f"{name}: {one.name} starts"):
                    running.append(
                        (one, stack.enter_context(contestants.started(one, asked, self.args.protocols)))
                    )
            for round_ in range(self.args.rounds):
                for clients in self.args.clients:
                    self._turn(f"round {round_ + 1}", asked, clients, running, limits)

    def _limits(self, asked: Case) -> dict[int, Arrangement]:
        if "limit" not in self.args.only:
            return {}
        with self.console.status(f"{asked.model}: onnxruntime's best"):
            best = measure.best_limits(asked, self.args.clients)
        self.notes.append(
            f"{asked.model}: {LIMIT}: " + "; ".join(f"{n} clients: {how}" for n, how in best.items())
        )
        return best

    def _contestants(self, asked: Case) -> Iterator[Contestant]:
        only = self.args.only
        if "agent" in only:
            yield contestants.agent(asked)
        for name, make in (("mlserver", contestants.mlserver), ("litserve", contestants.litserve)):
            if name not in only:
                continue
            usual = make(self.console, asked)
            yield usual
            with self.console.status(f"{asked.model}: the best choice of {name}"):
                best = measure.best_choices(asked, partial(make, self.console, asked), self.args.protocols)
            for one in best:
                self.notes.append(f"{asked.model}: at its best by {' and '.join(one.protocols)}: {one.name}")
                if one.name != usual.name:
                    yield one

    def _turn(
        self,
        what: str,
        asked: Case,
        clients: int,
        running: list[tuple[Contestant, Running]],
        limits: dict[int, Arrangement],
    ) -> None:
        """Each contestant once with so many clients; the limit last, since it burns what the agent's took."""
        clients_us = {}
        for one, process in running:
            for protocol in one.protocols:
                if protocol in self.args.protocols:
                    with self.console.status(
                        f"{asked.model}, {what}, {clients} clients: {one.name} {protocol}"
                    ):
                        sample = measure.load(asked, one, process, protocol, clients, self.args.seconds)
                    self._keep(sample)
                    if one.name == AGENT:
                        clients_us[protocol] = sample.figures["load_us"]
        if limits:
            for protocol in ("", "http", "grpc"):
                if protocol == "" or protocol in clients_us:
                    with self.console.status(f"{asked.model}, {what}, {clients} clients: {LIMIT}"):
                        figures = measure.limit(
                            asked, limits[clients], self.args.seconds, clients_us.get(protocol, 0.0)
                        )
                    self._keep(Sample(asked.model, LIMIT, protocol, clients, figures))

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        figures = sample.figures
        text = (
            f"{sample.model}, {sample.clients:3} clients  {sample.contestant:28} {by(sample):20}"
            f" {figures['per_s']:6.0f}/s  p50 {figures['p50']:.2f}  p99 {figures['p99']:.2f} ms"
        )
        self.console.print(text, highlight=False)
        if figures["errors"]:
            self.console.print(f"  [red]{figures['errors']:.0f} errors[/red]")
        report.keep("tensors", self.notes, [asdict(one) for one in self.samples])


def main() -> None:
    args = _arguments()
    console = report.console(args.json)
    report.warn_of_company(console)
    notes = [
        f"{machine()}, {os.cpu_count()} cores; {args.rounds} rounds of {args.seconds:g} s, interleaved;"
        " medians (least–greatest)"
    ]
    bench = Bench(args, console, [], notes)
    for name in args.models:
        bench.model(name)
    tables = []
    for name in args.models:
        tables.append((HEADS, rows([one for one in bench.samples if one.model == name])))
        console.print(_shown(name, *tables[-1]))
    console.print("\n".join(notes), highlight=False)
    for verdict in verdicts(bench.samples):
        report.verdict(console, notes, verdict.met, verdict.what)
    report.end("tensors", console, tables, notes, as_json=args.json)


def _shown(title: str, heads: list[str], cells: list[list[str]]) -> Table:
    table = Table(*heads, title=title)
    for at, row in enumerate(cells):
        last = at + 1 == len(cells) or cells[at + 1][0] != row[0]
        table.add_row(*row, end_section=last, style="bold" if AGENT in row else None)
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench tensors", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 round of 2 s at 1 and 32 clients")
    parser.add_argument("--models", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--clients", nargs="+", type=int, help="default: 1 8 32 128")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 4")
    parser.add_argument("--json", action="store_true", help="all samples on stdout; tables go to stderr")
    args = parser.parse_args()
    args.clients = args.clients or ([1, 32] if args.quick else [1, 8, 32, 128])
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.seconds = args.seconds or (2.0 if args.quick else 4.0)
    args.protocols = tuple(args.protocols)
    return args
