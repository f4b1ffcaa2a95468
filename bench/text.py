"""`python -m bench text`: this agent beside the in-process limit and its peers, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import measure, peers, report, servers, table, targets
from bench.measure import Sample
from bench.servers import KV, Server, Setup

Measure = Callable[[int, int], Sample]  # clients, waves
OTHERS = "Other kinds: `python -m bench tensors|tiny|share --help`."
CONTESTANTS = ("limit", "agent", "fresh", "warm", "python")


def main() -> None:
    args = _arguments()
    console = report.console(args.json)
    rounds, waves = (1, 2) if args.quick else (args.rounds, args.waves)
    counts = args.clients or ([1, 8, 32] if args.quick else [1, 4, 8, 16, 32])
    report.warn_of_company(console)
    setup = Setup(args.model or peers.model(console))
    notes = [
        f"{table.machine()}, {os.cpu_count()} cores; {rounds} rounds, interleaved; medians (least–greatest)"
    ]
    contestants = _contestants(args.only, setup, console, notes, counts)
    samples: list[Sample] = []
    total = rounds * len(counts) * len(contestants)
    for round_ in range(rounds):
        for clients in counts:
            for name, contestant in contestants.items():
                step = f"{len(samples) + 1} of {total}: round {round_ + 1}, {clients} clients, {name}"
                with console.status(step):
                    samples.append(contestant(clients, waves))
                report.keep("text", notes, [dataclasses.asdict(sample) for sample in samples])
                _say(console, samples[-1])
    tables = table.build(samples)
    table.show(console, tables)
    console.print("\n".join(notes), highlight=False)
    for met, what in targets.verdicts(samples):
        report.verdict(console, notes, met, what)
    report.end("text", console, (tables.speed, tables.machine), notes, as_json=args.json)


def _contestants(
    only: list[str], setup: Setup, console: Console, notes: list[str], counts: list[int]
) -> dict[str, Measure]:
    """What each name of `only` measures. Peers are built, and tried for their best settings, on the way."""
    found: dict[str, Measure] = {}
    kv: KV = servers.KV_CHOICES[0]
    if {"fresh", "warm"} & set(only):
        binary = peers.cpp_server(console)
        with console.status("llama-server: which KV cache suits it best?"):
            kv = measure.best_kv(setup, binary)
        notes.append(
            f"llama-server and llama_cpp.server: {kv[0]} KV, flash attention {'on' if kv[1] else 'off'}"
        )
    for name in only:
        if name == "limit":
            found[name] = _limit(setup, console, notes, counts)
        elif name == "agent":
            found[name] = _serving(servers.agent(setup))
        elif name == "python":
            found[name] = _serving(servers.python(setup, peers.python_server(console), kv))
        else:
            found[name] = _serving(servers.cpp(setup, binary, kv, warm=name == "warm"))
    if "agent" in found:
        with (
            console.status("The agent's first start: the model goes on its shelf"),
            servers.started(servers.agent(setup)),
        ):
            pass
    return found


def _limit(setup: Setup, console: Console, notes: list[str], counts: list[int]) -> Measure:
    best = {}
    for clients in counts:
        with console.status(f"The limit: the best arrangement for {clients} clients"):
            best[clients] = measure.best_arrangement(setup, clients)
    notes.append(f"limit, by clients (KV, flash attention, prompts together): {best}")
    return lambda clients, waves: measure.limit(setup, best[clients], clients, waves)


def _serving(server: Server) -> Measure:
    return lambda clients, waves: measure.serve(server, clients, waves)


def _say(console: Console, sample: Sample) -> None:
    figures = sample.figures
    text = (
        f"{sample.clients:3} clients  {sample.contestant:20} {figures['tokens_per_s']:6.0f} tokens/s"
        f"  TTFT {figures['ttft_p50']:.0f}/{figures['ttft_p99']:.0f}"
        f"  inter-token {figures['gap_p50']:.0f}/{figures['gap_p99']:.0f} ms"
    )
    console.print(text, highlight=False)
    if figures["short"]:
        console.print(f"  [red]{figures['short']:.0f} answers were shorter than asked for[/red]")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench text", description=__doc__, epilog=OTHERS)
    parser.add_argument("--quick", action="store_true", help="1 round, short, at 1, 8 and 32 clients")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--clients", nargs="+", type=int, help="default: 1 4 8 16 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waves", type=int, default=4, help="requests for each client in a measurement")
    parser.add_argument("--model", type=Path, help="a GGUF file with SmolLM2's chat template")
    parser.add_argument("--json", action="store_true", help="all samples on stdout; tables go to stderr")
    return parser.parse_args()
