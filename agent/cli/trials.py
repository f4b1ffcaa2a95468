"""`canary`, `promote`, `abort`: a version is tried beside the one that serves, on this device."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from agent.cli.errors import UsageError
from agent.cli.node import Node, load_settings, need
from agent.cli.screen import err

Trial = dict[str, Any]


def trial(weight: float | None, shadow: bool) -> Trial | None:
    """As the agent's API takes it; None: no trial is asked for. UsageError."""
    if shadow and weight is not None:
        raise UsageError("give --weight or --shadow: a shadow answers nobody, so it has no weight")
    if shadow:
        return {"shadow": True}
    return None if weight is None else {"weight": weight}


def canary(name: str, weight: float | None, shadow: bool) -> None:
    asked = trial(weight, shadow) or {"weight": 5}
    change(need(load_settings()), name, "canary", asked)
    err.print(f"{name} {told(asked)}", markup=False)


def promote(name: str) -> None:
    version = change(need(load_settings()), name, "promote")["promoted"]
    err.print(f"{name.partition(':')[0]} {version} serves now", markup=False)


def abort(name: str) -> None:
    for version in change(need(load_settings()), name, "abort")["aborted"]:
        err.print(f"{name.partition(':')[0]} {version} is tried no longer", markup=False)


def told(asked: Trial) -> str:
    """What a trial does, for people."""
    if asked.get("shadow"):
        return "answers copies while the node is quiet; autoglm status compares"
    return f"has {asked['weight']:g}% of the traffic; end it by autoglm promote or autoglm abort"


def change(node: Node, name: str, what: str, body: Trial | None = None) -> dict[str, Any]:
    """Begin or end a trial there: what it answers. CommandError."""
    answer: dict[str, Any] = node.post(f"/api/models/{quote(name, safe='')}/{what}", body or {})
    return answer
