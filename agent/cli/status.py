"""`status`: how the running agent is, on one screen; `--json` has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cli.errors import CommandError
from agent.cli.node import Node, load_settings, need
from agent.cli.screen import out, print_json, size

Told = Mapping[str, Any]


def status(json: bool) -> None:
    try:
        node = need(load_settings())
        told = node.get("/status")
    except CommandError as error:
        if json:
            print_json({"error": {"message": str(error)}})
        raise
    if json:
        print_json(told)
        return
    for what, now in _rows(node, told):
        out.print(f"[bold]{what:<8}[/bold] ", end="")
        out.print(now, markup=False)


def _rows(node: Node, told: Told) -> Iterator[tuple[str, str]]:
    settings = told["settings"]
    yield "node", f"{told['node']}, version {told['version']}, up for {duration(told['uptime_s'])}"
    yield "http", f"http://{settings['http_host']}:{settings['http_port']} (this command: {node.where})"
    doors = told.get("doors", {})
    yield "grpc", doors.get("grpc", "off")
    yield "mqtt", _mqtt(settings, doors)
    yield from ((name, says) for name, says in doors.items() if name not in ("grpc", "mqtt"))
    if told.get("cloud"):
        yield "cloud", _cloud(told)
    yield "ready", "yes" if told["ready"] else f"no: {told['reason']}"
    if not told["models"]:
        yield "model", f"none yet; asked for {settings['model']}"
    for model in told["models"]:
        yield from _model(model)
    yield "queue", f"{told['queue']['requests']} requests, about {told['queue']['tokens']} tokens"
    yield "running", f"{told['running']} requests"


def _model(model: Told) -> Iterator[tuple[str, str]]:
    worker = model["worker"]
    at_rest = worker["state"] == "stopped"
    named = f"{model['name']} {model['version']}, {size(model['size'])}"
    told = (", default" if model["default"] else "") + _part(model) + (", not loaded" if at_rest else "")
    yield "model", named + told
    if "engine" in model:
        yield "engine", _engine(model)
    if not at_rest:
        yield "worker", _worker(worker)
    if "slots" in model and "url" not in model["details"]:
        yield "kv cache", f"{worker['kv_used']:.0%} in use by {worker['sequences']['running']} sequences"


def _part(model: Told) -> str:
    """Of the Model's traffic, where that is shared."""
    if model["role"] == "shadow":
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(model["compared"].items()))
        return f", shadow ({counts or 'nothing compared yet'})"
    if model["role"] == "canary" or model["weight"] < 100:
        return f", {model['role']} with {model['weight']:g}% of the traffic"
    return ""


def _mqtt(settings: Told, doors: Told) -> str:
    if settings["mqtt_url"] is None:
        return "off"
    return f"{settings['mqtt_url']}: {doors.get('mqtt', 'not connected yet')}"


def _cloud(told: Told) -> str:
    cloud, telemetry = told["cloud"], told.get("telemetry") or {"rows": {}}
    says = f"{cloud['name']} of {cloud['url']}: {cloud['link']}"
    waits = sum(telemetry["rows"].values())
    if not waits:
        return says
    return f"{says}, {waits} rows of telemetry wait, the oldest for {duration(telemetry['oldest_s'])}"


def _engine(model: Told) -> str:
    details = model.get("details", {})
    if "url" in details:
        return f"{model['engine']} at {details['url']}, {details['model']} there"
    says = f"{model['engine']} on {model['device']}"
    details = model.get("details", {})
    if "cap" in details:
        ways = f"{details['runners']} at once, {details['threads']} threads each"
        if lone := details.get("lone_threads"):
            ways += f", {lone} for one that is alone"
        return f"{says}, batches of {details['cap']}, {ways}"
    if "slots" not in model:
        return says
    says += f", {model['slots']} slots of {model['context']} tokens"
    if "kv_type" in details:
        says += f", KV cache {details['kv_type']}, flash attention {details['flash_attention']}"
    return says


def _worker(worker: Told) -> str:
    pid, deaths = worker.get("pid"), worker.get("deaths_in_a_row", 0)
    says = str(worker["state"]) + (f", pid {pid}" if pid else "")
    if memory := _resident(pid) if pid else 0:
        says += f", {size(memory)} of memory"
    return says + (f", died {deaths} times in a row: {worker['reason']}" if deaths else "")


def _resident(pid: int) -> int:
    """Bytes; 0 where that process is not a Worker here, as when the agent is in a container."""
    process = Path("/proc", str(pid))
    try:
        if b"agent.worker" not in (process / "cmdline").read_bytes():
            return 0
        line = next(line for line in (process / "status").read_text().splitlines() if "VmRSS" in line)
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) * 1024


def duration(seconds: float) -> str:
    """For people: `3 d 4 h`, `5 min 2 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
