"""Settings of nodes: layers, and what they come to for one node."""

from __future__ import annotations

from json import dumps
from typing import Any
from urllib.parse import quote

from agent.cli.cloud import pairs
from agent.cli.cloud.client import Client
from agent.cli.errors import CommandError
from agent.cli.screen import out, print_json, table, when


def show(node: str | None, json: bool) -> None:
    found = Client().get(f"/nodes/{quote(node)}/config" if node else "/config")
    if json:
        return print_json(found)
    if node:
        return table(("SETTING", "VALUE", "FROM", "STATE", "REASON"), [_row(one) for one in found["sources"]])
    lines = [
        (layer["selector"], name, _value(value))
        for layer in found
        for name, value in layer["settings"].items()
    ]
    table(("FOR", "SETTING", "VALUE"), lines, none="No settings yet: autoglm cloud config set NAME=VALUE")


def change(given: list[str], to: str | None, node: str | None, json: bool) -> None:
    _patch(pairs.settings(given), to, node, json)


def unset(given: list[str], to: str | None, node: str | None, json: bool) -> None:
    _patch(pairs.names(given), to, node, json)


def history(to: str | None, node: str | None, limit: int, json: bool) -> None:
    only = {"selector": pairs.selector(to, node)} if to or node else {}
    rows = Client().get("/config/history", limit=limit, **only)
    if json:
        return print_json(rows)
    heads = ("CHANGE", "WHEN", "WHO", "FOR", "SETTING", "FROM", "TO")
    table(heads, [line for row in rows for line in _lines(row)], none="No changes yet")


def rollback(change: int, json: bool) -> None:
    found = Client().get("/config/history", before=change + 1, limit=1)
    if not found or found[0]["id"] != change:
        raise CommandError(f"there is no change {change}: autoglm cloud config history lists them")
    if found[0]["undo"] is None:
        raise CommandError(f"what was before the change {change} was not noted")
    _send(found[0]["selector"], found[0]["undo"], json)


def _patch(settings: dict[str, Any], to: str | None, node: str | None, json: bool) -> None:
    _send(pairs.selector(to, node), settings, json)


def _send(selector: str, settings: dict[str, Any], json: bool) -> None:
    changed = Client().patch("/config", {"selector": selector, "settings": settings})
    if json:
        return print_json(changed)
    count = changed["nodes"]
    if count:
        who = "1 node is" if count == 1 else f"{count} nodes are"
        out.print(f"{who} to change: autoglm cloud nodes shows when that is done")
    else:
        out.print(f"There is no node for {selector} yet: this is kept for when there is", markup=False)


def _lines(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of each setting that a change names."""
    before, told = row["undo"] or {}, (str(row["id"]), when(row["at"]), row["actor"], row["selector"])
    return [(*told, name, _value(before.get(name)), _value(value)) for name, value in row["changes"].items()]


def _value(value: Any) -> str:
    return "-" if value is None else dumps(value, ensure_ascii=False)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    name = ".".join(f'"{part}"' if "." in part else part for part in one["path"])
    return (name, _value(one["value"]), one["source"], one["state"], one["reason"])
