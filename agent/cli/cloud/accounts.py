"""`cloud users` and `cloud clients`: who may operate the fleet."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

from agent.cli.cloud.client import Client
from agent.cli.cloud.login import secret
from agent.cli.errors import UsageError
from agent.cli.screen import err, out, print_json, table, when


def add_user(name: str, role: str) -> None:
    Client().post("/users", {"name": name, "role": role, "password": _new_password()})
    err.print(f"{name} may log in: autoglm cloud login URL --user {name}", markup=False)


def add_client(name: str, role: str, json: bool) -> None:
    made = Client().post("/clients", {"name": name, "role": role})
    if json:
        return print_json(made)
    err.print(f"The secret of {name}, which is shown once:", markup=False)
    out.print(made["client_secret"], markup=False)


def listed(kind: str, json: bool) -> None:
    rows = Client().get(f"/{kind}")
    if json:
        return print_json(rows)
    table(
        ("NAME", "ROLE", "STATE", "LAST LOGIN"),
        [_row(one) for one in rows],
        none=f"No {kind} yet: autoglm cloud {kind} add NAME",
    )


def change(kind: str, name: str, **changes: Any) -> None:
    Client().patch(f"/{kind}/{quote(name, safe='')}", changes)
    err.print(f"{name} is changed", markup=False)


def password(name: str) -> None:
    """An administrator sets anybody's; others change their own, and show the former one."""
    client = Client()
    me = client.get("/me")
    if me["role"] == "admin":
        client.patch(f"/users/{quote(name, safe='')}", {"password": _new_password()})
    elif me["name"] == f"user:{name}":
        current = secret("Current password")
        client.post("/me/password", {"current": current, "password": _new_password()})
    else:
        raise UsageError(f"this is for administrators, and for {name}")
    err.print(f"{name} has a new password, and must log in anew", markup=False)


def _new_password() -> str:
    given = secret("New password")
    if sys.stdin.isatty() and secret("Once more") != given:
        raise UsageError("the two are not the same")
    return given


def _row(account: dict[str, Any]) -> tuple[str, ...]:
    seen = account["seen_at"]
    state = "disabled" if account["disabled"] else "active"
    return (account["name"], account["role"], state, when(seen) if seen else "never")
