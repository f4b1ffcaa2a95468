"""Colours, tables and bars on a terminal, plain text otherwise. Answers go to stdout, news to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
WIDE, LAST = 40, 30  # cells of a column, and of a table's last one, that may have lines beyond them


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0, none: str = "") -> None:
    """Rows under heads; the last `numbers` columns are aligned to the right. Tabs between them in a pipe.

    `none`: what people are told in place of no rows.
    """
    if not rows and none and out.is_terminal:
        err.print(none, markup=False)
        return
    if not out.is_terminal:
        for row in (heads, *rows):
            print("\t".join(row))
        return
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    least = sum(min(width, WIDE) + 2 for width in widths[:-1]) + min(widths[-1], LAST)
    # Nothing is cut off: what is long has lines in its column, and a terminal that is too small breaks lines.
    width = least if least > out.width else None
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), width=width)
    for index, (head, natural) in enumerate(zip(heads, widths, strict=True)):
        whole = natural <= (WIDE if index < len(heads) - 1 else LAST)
        side: Literal["left", "right"] = "right" if index >= len(heads) - numbers else "left"
        shown.add_column(head, justify=side, no_wrap=whole, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))  # as it is: what is in it may come from elsewhere
    out.print(shown)


def as_typed(value: Any) -> str:
    """JSON, with texts as they are."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def when(at: float) -> str:
    """Wall time in seconds, for people: `2026-01-31 12:34:56Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: int) -> str:
    """Bytes for people: `98.1 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


class Bar:
    """Progress of a pull: a bar on a terminal; otherwise a `line` for each phase and each tenth of it."""

    def __init__(self, line: Callable[[str], None] | None = None) -> None:
        self._line = line or partial(err.print, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=err,
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase = ""
        self._tenth = -1

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def show(self, phase: str, done: int, total: int | None) -> None:
        if phase == "ready":
            self._end()
            return
        if err.is_terminal:
            self._draw(phase, done, total)
        else:
            self._write(phase, done, total)

    def _end(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None

    def _draw(self, phase: str, done: int, total: int | None) -> None:
        if self._task is None:
            self._bar.start()
        if phase != self._phase or self._task is None:
            self._phase = phase
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(phase, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def _write(self, phase: str, done: int, total: int | None) -> None:
        tenth = done * 10 // total if total else 0
        if (phase, tenth) != (self._phase, self._tenth):
            self._phase, self._tenth = phase, tenth
            far = f": {size(done)}" + (f" of {size(total)}" if total else "") if done or total else ""
            self._line(phase + far)
