"""What all kinds of the bench do with their results: show them, and keep them in `.cache/bench`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from bench import peers

Row = list[str]


def console(as_json: bool = False) -> Console:
    """Wide where nobody's terminal says how wide it is. With JSON on stdout, all else is on stderr."""
    stream = sys.stderr if as_json else sys.stdout
    return Console(stderr=as_json, width=None if stream.isatty() else 160)


def warn_of_company(console: Console) -> None:
    if (load := os.getloadavg()[0]) > 0.5:
        console.print(f"[yellow]The machine is busy (load {load:.1f}): the figures will show it.[/yellow]")


def verdict(console: Console, notes: list[str], met: bool, what: str) -> None:
    console.print(f"{'[green]met   [/green]' if met else '[red]missed[/red]'} {what}", highlight=False)
    notes.append(f"{'met' if met else 'missed'}: {what}")


def keep(kind: str, notes: list[str], samples: list[dict[str, Any]]) -> None:
    """After each sample, so that a run that is cut off leaves what it had."""
    kept = {"at": time.time(), "notes": notes, "samples": samples}
    (peers.CACHE / f"{kind}.json").write_text(json.dumps(kept, indent=1))


def end(
    kind: str, console: Console, tables: Iterable[tuple[Row, Sequence[Row]]], notes: list[str], as_json: bool
) -> None:
    """Keep the tables and the notes beside the samples; with `as_json` print those."""
    text = markdown(tables, notes)
    (peers.CACHE / f"{kind}.md").write_text(text)
    console.print(f"Kept: {peers.CACHE / kind}.md and .json")
    if as_json:
        kept = json.loads((peers.CACHE / f"{kind}.json").read_text()) | {"notes": notes}
        print(json.dumps(kept, indent=1))


def markdown(tables: Iterable[tuple[Row, Sequence[Row]]], notes: Iterable[str]) -> str:
    parts = [
        "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
        for heads, rows in tables
    ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"
