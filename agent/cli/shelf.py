"""The shelf's commands: through the running agent where there is one, else directly on the shelf."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent.cli.errors import CommandError, UsageError
from agent.cli.node import find, load_settings, need
from agent.cli.screen import Bar, err, print_json, size, table
from agent.cli.trials import Trial, told

if TYPE_CHECKING:
    from agent.cli.node import Node
    from agent.config import Settings
    from models.sources import Progress

Report = Callable[[str, int, int | None], None]


def pull(source: str, name: str | None, quantize: bool, json: bool, trial: Trial | None) -> None:
    settings = load_settings()
    node = find(settings)
    if trial and not (node and name):
        raise UsageError("a version is tried by a running agent, beside the model that --name names")
    source = _meant(source)
    before = _listed(settings, node)
    with Bar() as bar:
        got = (
            _pull_by(node, source, name, quantize, trial, bar.show)
            if node
            else _pull_here(settings, source, name, quantize, bar.show)
        )
    if json:
        print_json(got)
    else:
        if "quantized" in got:
            err.print(f"kept: {got['quantized']['kept']}. {got['quantized']['why']}", markup=False)
        says = _told(got, before, _listed(settings, node), bool(node))
        err.print(f"{says.partition(',')[0]}, and {told(trial)}" if trial else says, markup=False)


def models(json: bool) -> None:
    settings = load_settings()
    rows = _listed(settings, find(settings))
    if json:
        print_json(rows)
    elif rows:
        table(
            ("MODEL", "VERSION", "LOADED", "ENGINE", "RUNS BY", "TRAFFIC", "SIZE"),
            [
                (
                    *(row["model"], row["version"], "yes" if row["loaded"] else ""),
                    *(row["engine"], _runs_by(row["chosen"]), _part(row), size(row["size"])),
                )
                for row in rows
            ],
            numbers=1,
        )
    else:
        err.print("The shelf is empty. Bring the default model: autoglm pull " + settings.model)


def _part(row: dict[str, Any]) -> str:
    """Of its model's traffic, where that is shared."""
    if row["role"] == "shadow":
        return "shadow"
    return f"{row['weight']:g}%" if row["role"] and (row["role"] != "stable" or row["weight"] < 100) else ""


def _runs_by(chosen: dict[str, Any]) -> str:
    """What this device's trial chose, or the settings did; "" where it was never loaded here."""
    if "cap" in chosen:
        speed = f", {chosen['rows_per_s']:.0f} rows/s" if chosen.get("rows_per_s") else ""
        alone = f", alone on {chosen['lone_threads']}" if chosen.get("lone_threads") else ""
        return f"{chosen['cap']} x {chosen['runners']} x {chosen['threads']}{alone}{speed}"
    if "kv_type" in chosen:
        return f"KV {chosen['kv_type']}, flash {chosen['flash_attention']}"
    return ""


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
    if source.startswith((".", "/", "~")) or source.endswith((".gguf", ".onnx", "/")):
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


def _pull_by(
    node: Node, source: str, name: str | None, quantize: bool, trial: Trial | None, report: Report
) -> dict[str, Any]:
    wishes = {"name": name, "quantize": quantize, "trial": trial}
    body = {"source": source} | {wish: value for wish, value in wishes.items() if value}
    row: dict[str, Any] = {}
    for line in node.stream("/api/pull", body):
        row = jsonlib.loads(line)
        if "error" in row:
            raise CommandError(row["error"]["message"])
        if row.get("phase") == "load":
            err.print("ready on the shelf; the agent loads it now")
        elif "phase" in row:
            report(row["phase"], row["done"], row["total"])
    if "version" not in row:
        raise CommandError("the agent ended the pull early. Its log says why; run the pull again to resume")
    return row


def _pull_here(
    settings: Settings, source: str, name: str | None, quantize: bool, report: Report
) -> dict[str, Any]:
    from agent.pulls import bring
    from models.errors import ModelError
    from models.shelf import Shelf

    shelf = Shelf(settings.data_dir / "models")

    def told(now: Progress) -> None:
        report(now.phase, now.done, now.total)

    try:
        got, decision = asyncio.run(bring(source, name, shelf, told, settings if quantize else None))
    except ModelError as error:
        raise CommandError(str(error)) from error
    answer = {"model": got.model, "version": got.version, "path": str(got.path)}
    return answer | ({"quantized": decision} if decision else {})


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
    from agent import listing
    from models.shelf import Shelf

    if node:
        rows: list[dict[str, Any]] = node.get("/api/models")
        return rows
    return listing.rows(settings, Shelf(settings.data_dir / "models"), {}, {})
