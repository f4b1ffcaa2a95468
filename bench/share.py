"""`python -m bench share`: models that are busy at once, and what loading one does to another's tokens."""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from agent.config import DEFAULT_MODEL
from bench import busy, peers, report, servers
from bench.busy import Disturbed, Figures, Pair
from bench.table import machine, spread
from bench.tensors.cases import on_shelf
from models.shelf import Shelf
from models.sources import pull

TWIN = "twin"  # the default model's file under another name
TENSORS = "text-direction"
PARTS = ("load", "text", "tensors")
MOST = 1.5  # times its p99 inter-token latency alone, while another is loaded


def _pull(console: Console, source: str, name: str | None = None) -> Path:
    shelf = Shelf(peers.AGENT_DATA / "models")
    with console.status(f"{name or source}: on the shelf?") as status:
        found = asyncio.run(pull(source, shelf, name=name, report=lambda step: status.update(str(step))))
    return found.path


def measure(args: argparse.Namespace, console: Console) -> tuple[list[Disturbed], list[Pair]]:
    """All rounds, each part in its turn."""
    _pull(console, str(_pull(console, DEFAULT_MODEL)), TWIN)
    if "load" in args.only:
        _pull(console, args.second)
    with console.status(f"{TENSORS}: on the shelf?"):
        file = on_shelf(TENSORS, lambda step: None).path
    found: list[Disturbed] = []
    pairs: list[Pair] = []
    with servers.started(servers.untuned_agent(AUTOGLM_KEEP_ALIVE="-1")) as running:
        first = busy.text(DEFAULT_MODEL, running, args.clients)
        others = {
            "text": busy.text(TWIN, running, args.clients),
            "tensors": busy.tensors(TENSORS, file, running, args.clients),
        }
        if "load" in args.only:  # its first load ever tries what suits it, once and for all
            busy.load_again_and_again(args.second, perf_counter())
        for round_ in range(args.rounds):
            if "load" in args.only:
                with console.status(f"round {round_ + 1}: {args.second} is loaded beside {DEFAULT_MODEL}"):
                    found.append(busy.disturbed(first, args.second, args.seconds))
            for part, other in others.items():
                if part in args.only:
                    with console.status(f"round {round_ + 1}: {DEFAULT_MODEL} beside {other.model}"):
                        pairs.append(busy.pair(first, other, args.seconds))
    return found, pairs


LOAD_HEADS = ["", "tokens/s", "inter-token p50 ms", "p99 ms", "p99 over that alone", "loads", "s each"]
PAIR_HEADS = ["models", "alone /s", "at once /s", "share", "sum of shares"]


def load_rows(found: list[Disturbed], second: str) -> list[list[str]]:
    def figures(of: list[Figures]) -> list[str]:
        return [
            spread([one[name] for one in of], "{:.1f}".format)
            for name in ("tokens_per_s", "gap_p50", "gap_p99")
        ]

    loads = [each for one in found for each in one.loads]
    ratio = spread([one.ratio for one in found], "{:.2f}".format)
    return [
        ["alone", *figures([one.alone for one in found]), "", "", ""],
        [
            f"while {second} is loaded and unloaded",
            *figures([one.beside for one in found]),
            ratio,
            str(len(loads)),
            f"{median(loads):.2f}",
        ],
    ]


def pair_rows(pairs: list[Pair]) -> list[list[str]]:
    rows = []
    for models in dict.fromkeys(one.models for one in pairs):
        of = [one for one in pairs if one.models == models]
        total = spread([sum(one.shares) for one in of], "{:.2f}".format)
        for at, name in enumerate(models):
            alone, both, share = (
                spread([values[at] for values in kind], form.format)
                for kind, form in (
                    ([one.alone for one in of], "{:.0f}"),
                    ([one.both for one in of], "{:.0f}"),
                    ([one.shares for one in of], "{:.2f}"),
                )
            )
            rows.append([name, alone, both, share, "" if at else total])
    return rows


def main() -> None:
    args = _arguments()
    console = report.console(args.json)
    report.warn_of_company(console)
    found, pairs = measure(args, console)
    how = f"{args.clients} clients a model, {args.rounds} rounds of {args.seconds:g} s"
    notes = [f"{machine()}, {os.cpu_count()} cores; {how}; medians (least–greatest)"]
    tables = []
    if found:
        tables.append((LOAD_HEADS, load_rows(found, args.second)))
    if pairs:
        tables.append((PAIR_HEADS, pair_rows(pairs)))
    for heads, rows in tables:
        table = Table(*heads)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print("\n".join(notes), highlight=False)
    if found:
        ratio = median(one.ratio for one in found)
        what = f"p99 between tokens while {args.second} is loaded: {ratio:.2f} of that alone, at most {MOST}"
        report.verdict(console, notes, ratio <= MOST, what)
    samples = [*map(asdict, found), *map(asdict, pairs)]
    report.keep("share", notes, samples)
    report.end("share", console, tables, notes, as_json=args.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench share", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="a model is loaded beside; two models of text at once; one of text and one of tensors",
    )
    parser.add_argument("--second", default="gemma3-270m", help="the model that is loaded and unloaded")
    parser.add_argument("--clients", type=int, default=4, help="of each model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="all samples on stdout; tables go to stderr")
    return parser.parse_args()
