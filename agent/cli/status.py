"""`status`: how the running agent is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.cli.node import load_settings, need
from agent.cli.screen import out, print_json, table


def status(json: bool) -> None:
    node = need(load_settings())
    told = node.get("/status")
    if json:
        print_json(told)
        return
    out.print(f"[bold]agent[/bold] at {node.where}")
    table(("WHAT", "NOW"), [row for row in _flat(told) if not row[0].startswith("settings.")])


def _flat(value: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    for name, each in value.items():
        path = f"{under}{name}"
        if isinstance(each, Mapping):
            yield from _flat(each, f"{path}.")
        elif isinstance(each, list) and each and isinstance(each[0], Mapping):
            for index, item in enumerate(each):
                yield from _flat(item, f"{path}[{index}].")
        else:
            yield path, _shown(each)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
