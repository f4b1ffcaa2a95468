"""`pull` and `models`: through the running agent where there is one, else directly on the shelf."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.cli.errors import CommandError
from agent.cli.node import find, load_settings
from agent.cli.screen import Bar, err, print_json, size, table

if TYPE_CHECKING:
    from pathlib import Path

    from agent.cli.node import Node
    from agent.config import Settings

Report = Callable[[str, int, int | None], None]


def pull(source: str, name: str | None, json: bool) -> None:
    settings = load_settings()
    node = find(settings)
    with Bar() as bar:
        got = (
            _pull_by(node, source, name, bar.show)
            if node
            else _pull_here(settings.data_dir, source, name, bar.show)
        )
    if json:
        print_json(got)
    else:
        err.print(f"{got['model']} {got['version']} is on the shelf")


def models(json: bool) -> None:
    settings = load_settings()
    node = find(settings)
    rows = node.get("/api/models") if node else _listed(settings)
    if json:
        print_json(rows)
    elif rows:
        table(
            ("MODEL", "VERSION", "SERVED", "SIZE"),
            [
                (row["model"], row["version"], "yes" if row["active"] else "", size(row["size"]))
                for row in rows
            ],
            numbers=1,
        )
    else:
        err.print("The shelf is empty. Bring the default model: autoglm pull " + settings.model)


def _pull_by(node: Node, source: str, name: str | None, report: Report) -> dict[str, Any]:
    body = {"source": source} | ({"name": name} if name else {})
    row: dict[str, Any] = {}
    for line in node.stream("/api/pull", body):
        row = jsonlib.loads(line)
        if "error" in row:
            raise CommandError(row["error"]["message"])
        if "phase" in row:
            report(row["phase"], row["done"], row["total"])
    if "version" not in row:
        raise CommandError("the agent ended the pull early. Its log says why; run the pull again to resume")
    return row


def _pull_here(data_dir: Path, source: str, name: str | None, report: Report) -> dict[str, Any]:
    from models.errors import ModelError
    from models.shelf import Shelf
    from models.sources import pull

    shelf = Shelf(data_dir / "models")
    try:
        got = asyncio.run(
            pull(source, shelf, name=name, report=lambda now: report(now.phase, now.done, now.total))
        )
    except ModelError as error:
        raise CommandError(str(error)) from error
    return {"model": got.model, "version": got.version, "path": str(got.path)}


def _listed(settings: Settings) -> list[dict[str, Any]]:
    from models.shelf import Shelf

    versions = Shelf(settings.data_dir / "models").versions()
    return [
        {
            "model": each.model,
            "version": each.version,
            "size": each.size,
            "path": str(each.path),
            "active": False,
        }
        for each in versions
    ]
