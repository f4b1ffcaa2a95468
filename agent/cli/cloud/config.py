"""Settings of nodes: layers, and what they come to for one node."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from agent.cli.cloud import pairs
from agent.cli.cloud.client import Client
from agent.cli.errors import UsageError
from agent.cli.screen import out, print_json, table


def show(node: str | None, json: bool) -> None:
    found = Client().get(f"/nodes/{quote(node)}/config" if node else "/config")
    if json:
        return print_json(found)
    if node:
        return table(("SETTING", "VALUE", "FROM", "STATE", "REASON"), [_row(one) for one in found["sources"]])
    lines = [
        (layer["selector"], name, repr(value)) for layer in found for name, value in layer["settings"].items()
    ]
    table(("FOR", "SETTING", "VALUE"), lines)


def change(given: list[str], to: str | None, node: str | None, json: bool) -> None:
    _patch(pairs.settings(given), to, node, json)


def unset(given: list[str], to: str | None, node: str | None, json: bool) -> None:
    _patch(pairs.names(given), to, node, json)


def _patch(settings: dict[str, Any], to: str | None, node: str | None, json: bool) -> None:
    if to and node:
        raise UsageError("--to names a group, --node one node: give one of the two")
    selector = f"node:{node}" if node else to or "all"
    changed = Client().patch("/config", {"selector": selector, "settings": settings})
    if json:
        return print_json(changed)
    out.print(f"{changed['nodes']} nodes are to change: autoglm cloud nodes shows when they have")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    name = ".".join(f'"{part}"' if "." in part else part for part in one["path"])
    return (name, repr(one["value"]), one["source"], one["state"], one["reason"])
