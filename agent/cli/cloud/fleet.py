"""What operators see and change: tokens, nodes, settings."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from agent.cli.cloud import pairs
from agent.cli.cloud.client import Client
from agent.cli.screen import as_typed, out, print_json, table, when


def token(life: str, label: list[str], replace: str | None, json: bool) -> None:
    asked = {"life_s": pairs.seconds("--life", life), "labels": pairs.labels(label), "replaces": replace}
    made = Client().post("/tokens", asked)
    if json:
        print_json(made)
    else:
        out.print(made["token"])


def nodes(json: bool) -> None:
    rows = _all_nodes(Client())
    if json:
        return print_json(rows)
    heads = (
        "NODE",
        "STATE",
        "ADDRESS",
        "READY",
        "AGENT",
        "HEARTBEAT",
        "CONFIG",
        "BACKLOG",
        "CLOCK",
        "LABELS",
    )
    none = "No nodes yet: autoglm cloud token makes a token, with which a machine joins"
    table(heads, [_row(one, time.time()) for one in rows], none=none)


def _all_nodes(client: Client) -> list[dict[str, Any]]:
    """Of a fleet of any size, a page at a time."""
    rows: list[dict[str, Any]] = []
    while page := client.get("/nodes", after=rows[-1]["name"] if rows else ""):
        rows += page
    return rows


def label(node: str, given: list[str]) -> None:
    labels = {key: value or None for key, value in pairs.labels(given).items()}
    Client().patch(f"/nodes/{quote(node)}/labels", {"labels": labels})
    out.print(f"{node} has its labels", markup=False)


def revoke(node: str) -> None:
    Client().post(f"/nodes/{quote(node)}/revoke", {})
    out.print(
        f"{node} is revoked: autoglm cloud token --replace {node} lets a machine take its place", markup=False
    )


def remove(node: str) -> None:
    Client().delete(f"/nodes/{quote(node)}")
    out.print(f"{node} is gone: on the device, autoglm leave forgets the fleet", markup=False)


def audit(limit: int, json: bool) -> None:
    rows = Client().get("/audit", limit=limit)
    if json:
        return print_json(rows)
    heads = ("WHEN", "WHO", "FROM", "WHAT", "TO", "DETAILS")
    table(heads, [_entry(one) for one in rows])


def _entry(row: dict[str, Any]) -> tuple[str, ...]:
    told = {key: value for key, value in row["details"].items() if value not in (None, {})}
    details = ", ".join(f"{key}={as_typed(value)}" for key, value in told.items())
    return (when(row["at"]), row["actor"], row["address"], row["action"], row["target"], details)


def _row(node: dict[str, Any], now: float) -> tuple[str, ...]:
    told = node["reported"]
    ready = ("yes" if told.get("ready") else f"no: {told.get('reason')}") if told else ""
    labels = ",".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    return (
        node["name"],
        node["state"],
        node["address"],
        ready,
        " ".join(one for one in (told.get("version", ""), node["skew"] and f"({node['skew']})") if one),
        f"{_ago(now - node['seen_at'])} ago" if node["seen_at"] else "never",
        _config(node),
        str(node["backlog"]),
        _clock(node["clock_skew_s"] or 0.0),
        labels,
    )


def _config(node: dict[str, Any]) -> str:
    bad = sorted({one["state"] for one in node["reported"].get("items", {}).values()} - {"applied"})
    behind = node["generation"] - node["observed_generation"]
    return f"{behind} behind" if behind > 0 else ", ".join(bad) or "observed"


def _clock(skew_s: float) -> str:
    if abs(skew_s) < 60:
        return "right"
    return f"{_ago(abs(skew_s))} {'fast' if skew_s > 0 else 'slow'}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
