"""The shelf's commands: through the running agent where there is one, else directly on the shelf."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent.cli.errors import CommandError
from agent.cli.node import find, load_settings, need
from agent.cli.screen import Bar, err, print_json, size, table

if TYPE_CHECKING:
    from agent.cli.node import Node
    from agent.config import Settings

Report = Callable[[str, int, int | None], None]


def pull(source: str, name: str | None, json: bool) -> None:
    settings = load_settings()
    node = find(settings)
    source = _meant(source)
    before = _listed(settings, node)
    with Bar() as bar:
        got = (
            _pull_by(node, source, name, bar.show)
            if node
            else _pull_here(settings.data_dir, source, name, bar.show)
        )
    if json:
        print_json(got)
    else:
        err.print(_told(got, before, _listed(settings, node), bool(node)), markup=False)


def models(json: bool) -> None:
    settings = load_settings()
    rows = _listed(settings, find(settings))
    if json:
        print_json(rows)
    elif rows:
        table(
            ("MODEL", "VERSION", "LOADED", "SIZE"),
            [
                (row["model"], row["version"], "yes" if row["loaded"] else "", size(row["size"]))
                for row in rows
            ],
            numbers=1,
        )
    else:
        err.print("The shelf is empty. Bring the default model: autoglm pull " + settings.model)


def load(name: str) -> None:
    _change(name, "load")


def unload(name: str) -> None:
    _change(name, "unload")


def _change(name: str, how: str) -> None:
    need(load_settings()).post(f"/v2/repository/models/{quote(name, safe='')}/{how}", {})
    err.print(f"{name} is {how}ed", markup=False)


def remove(name: str, json: bool) -> None:
    settings = load_settings()
    node = find(settings)
    if node:
        gone = node.delete(f"/api/models/{quote(name, safe='')}")
    else:
        gone = _remove_here(settings.data_dir, name)
    if json:
        print_json(gone)
    else:
        for one in gone:
            err.print(f"{one['model']} {one['version']} is removed", markup=False)


def _meant(source: str) -> str:
    """A file or folder by its full path: the agent may have another working folder."""
    if source.startswith((".", "/", "~")) or source.endswith((".gguf", "/")):
        path = Path(source).expanduser()
        if path.exists():
            return str(path.absolute())
    return source


def _told(got: dict[str, Any], before: list[dict[str, Any]], now: list[dict[str, Any]], agent: bool) -> str:
    def here(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if (row["model"], row["version"]) == (got["model"], got["version"])]

    says = f"{got['model']} {got['version']} is {'already here' if here(before) else 'on the shelf'}"
    if any(row["loaded"] for row in here(now)):
        return f"{says}, and the agent serves it"
    if agent:
        return f"{says}, and the agent loads it when somebody asks for it: --model {got['model']}"
    return f"{says}; serve it with AUTOGLM_MODEL={got['model']}"


def _pull_by(node: Node, source: str, name: str | None, report: Report) -> dict[str, Any]:
    body = {"source": source} | ({"name": name} if name else {})
    row: dict[str, Any] = {}
    for line in node.stream("/api/pull", body):
        row = jsonlib.loads(line)
        if "error" in row:
            raise CommandError(row["error"]["message"])
        if row.get("phase") == "load":
            err.print("ready on the shelf; the agent changes to it now")
        elif "phase" in row:
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


def _remove_here(data_dir: Path, name: str) -> list[dict[str, Any]]:
    from agent.data_dir import only_one
    from agent.errors import AgentError
    from models.errors import ModelError
    from models.shelf import Shelf, split_name

    try:
        with only_one(data_dir):  # an agent that is just starting, or does not answer, needs its models
            gone = Shelf(data_dir / "models").remove(*split_name(name))
    except (AgentError, ModelError, OSError) as error:
        raise CommandError(str(error)) from error
    return [{"model": one.model, "version": one.version, "size": one.size} for one in gone]


def _listed(settings: Settings, node: Node | None) -> list[dict[str, Any]]:
    from models.shelf import Shelf

    if node:
        rows: list[dict[str, Any]] = node.get("/api/models")
        return rows
    versions = Shelf(settings.data_dir / "models").versions()
    return [
        {
            "model": each.model,
            "version": each.version,
            "size": each.size,
            "path": str(each.path),
            "loaded": False,
        }
        for each in versions
    ]
