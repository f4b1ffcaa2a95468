"""`cloud hooks`: who is told of the fleet's events."""

from __future__ import annotations

import os

from agent.cli.cloud.client import Client
from agent.cli.screen import err, out, print_json, table

SECRET = "AUTOGLM_CLOUD_HOOK_SECRET"  # noqa: S105 - the name of a variable


def add(url: str, kinds: list[str], secret: str | None, json: bool) -> None:
    asked = {"url": url, "kinds": kinds, "secret": secret or os.environ.get(SECRET)}
    made = Client().post("/hooks", asked)
    if json:
        return print_json(made)
    out.print(made["secret"], markup=False)
    err.print(f"Hook {made['id']}: this secret signs its notices, and is shown once.", markup=False)


def listed(json: bool) -> None:
    rows = Client().get("/hooks")
    if json:
        return print_json(rows)
    heads = ("HOOK", "URL", "KINDS", "WAITING", "FAILURES", "PROBLEM")
    table(
        heads,
        [
            (
                one["id"], one["url"], ",".join(one["kinds"]) or "all",
                str(one["waiting"]), str(one["failures"]), one["problem"],
            )
            for one in rows
        ],
        none="Nobody is told yet: autoglm cloud hooks add URL",
    )  # fmt: skip


def remove(id: str) -> None:
    Client().delete(f"/hooks/{id}")
    out.print(f"{id} is told no longer", markup=False)
