"""`doctor`: look at the machine and the agent, and say what to do. Exit code 1: something is broken."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from agent import gpu
from agent.cli.errors import CommandError
from agent.cli.node import HOW_TO_START, Node, find, load_settings
from agent.cli.screen import out, print_json, size
from agent.free_memory import available

if TYPE_CHECKING:
    from agent.config import Settings

MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "broken": "[red]BAD [/red]"}
ONNX = ("onnxruntime", "onnxruntime-gpu")  # one package under two names
NEEDED_DISK = 500_000_000  # bytes: the default model, its download, and the database
NEEDED_MEMORY = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    about: str
    state: Literal["ok", "note", "broken"]
    says: str


def doctor(json: bool) -> None:
    settings = load_settings()
    node = find(settings)
    findings = [
        *_machine(settings),
        *_engine(),
        _onnx(),
        _agent(settings, node),
        _models(settings, node),
        _broker(settings, node),
    ]
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            out.print(f"{MARKS[finding.state]} {finding.about:<8} ", finding.says, sep="")
    broken = [finding.about for finding in findings if finding.state == "broken"]
    if broken:
        raise CommandError(f"broken: {', '.join(broken)}")


def _machine(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    there = available()
    state: Literal["ok", "note"] = "ok" if there >= NEEDED_MEMORY else "note"
    yield Finding("memory", state, f"{size(there)} available")
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < NEEDED_DISK:
        says = f"{size(free)} free under {folder}: make room, or set AUTOGLM_DATA_DIR to a larger disk"
        yield Finding("disk", "broken", says)
    else:
        yield Finding("disk", "ok", f"{size(free)} free under {folder}")


def _engine() -> Iterator[Finding]:
    if importlib.util.find_spec("llama_cpp") is None:  # finds, does not load: native code stays in Workers
        yield Finding("engine", "broken", "llama-cpp-python is not installed: make install")
        return
    cuda = "llama" in gpu.engines()
    visible = gpu.is_visible()
    build = Path(sys.prefix, "engine-build")
    told = build.read_text().split(";")[0].strip() if build.exists() else "a compiler that is not recorded"
    amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
    says = f"llama.cpp by {told}, {'with CUDA' if cuda else 'for the CPU'}"
    yield Finding("engine", "ok", f"{says}; this CPU has {'AMX' if amx else 'no AMX'}")
    if visible and not cuda:
        yield Finding(
            "gpu", "note", "a GPU is here but the engine has no CUDA: CUDA=1 make install (needs nvcc)"
        )
    elif cuda and not visible:
        yield Finding("gpu", "note", "the engine has CUDA, but no GPU is visible: it computes on the CPU")
    elif visible:
        own = gpu.find()
        has = f"{size(own.free())} of its own memory are free" if own else "it shares the machine's memory"
        yield Finding("gpu", "ok", f"visible, and the engine has CUDA; {has}")


def _onnx() -> Finding:
    there = [name for name in ONNX if _is_installed(name)]
    if not there:
        says = "onnxruntime is not installed, and ONNX models cannot be served: make install"
        return Finding("onnx", "note", says)
    if len(there) > 1:
        both = f"{' and '.join(there)} overwrite each other's files"
        return Finding("onnx", "broken", f"{both}: pip uninstall {' '.join(there)}, then make install")
    try:
        providers = _providers()
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("onnx", "broken", f"{there[0]} does not start: {error}")
    says = f"{there[0]} {metadata.version(there[0])} with {', '.join(providers)}"
    if gpu.is_visible() and providers == ["CPU"]:
        x86 = platform.machine() == "x86_64"
        hint = "CUDA=1 make install" if x86 else "NVIDIA has wheels for it, see docs/configuration.md"
        return Finding("onnx", "note", f"{says}; a GPU is here, and ONNX models do not use it: {hint}")
    return Finding("onnx", "ok", says)


def _providers() -> list[str]:
    """What onnxruntime can compute on, asked in a process of its own: it is native code."""
    command = [sys.executable, "-P", "-m", "agent.engines.onnx"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    return told.stdout.split()


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _agent(settings: Settings, node: Node | None) -> Finding:
    if node is None:
        if _listens(settings.http_host, settings.http_port):
            says = f"port {settings.http_port} is in use by another program: set AUTOGLM_HTTP_PORT"
            return Finding("agent", "broken", says)
        return Finding("agent", "note", f"not running. {HOW_TO_START}")
    try:
        node.get("/readyz")
    except CommandError as error:
        loading = node.get("/status")["worker"]["state"] == "loading"
        says = f"running at {node.where}, but not ready: {error}"
        return Finding("agent", "note" if loading else "broken", says)
    return Finding("agent", "ok", f"running and ready at {node.where}")


def _models(settings: Settings, node: Node | None) -> Finding:
    if node is not None:
        names = sorted({row["model"] for row in node.get("/api/models")})
    else:
        from models.shelf import Shelf

        names = sorted({version.model for version in Shelf(settings.data_dir / "models").versions()})
    if names:
        return Finding("models", "ok", ", ".join(names))
    return Finding(
        "models", "note", f"none yet; serve brings {settings.model}, or: autoglm pull {settings.model}"
    )


def _broker(settings: Settings, node: Node | None) -> Finding:
    status = node.get("/status") if node else {"settings": settings.public()}
    url, port = status["settings"]["mqtt_url"], status["settings"]["embedded_port"]
    if url is None:
        return Finding("mqtt", "note", "off; AUTOGLM_MQTT_URL=embedded or mqtt://host:port turns it on")
    if node is not None:
        return _link(url, status["doors"].get("mqtt", "not connected yet"))
    if url == "embedded":
        host, hint = "127.0.0.1", "it comes with serve"
    else:
        parts = urlsplit(url)
        host, hint = parts.hostname or "", "is it up, and does a firewall let you through?"
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    if _listens(host, port):
        return Finding("mqtt", "ok", f"a broker listens at {host}:{port}")
    return Finding("mqtt", "note", f"no broker listens at {host}:{port}: {hint}")


def _link(url: str, state: str) -> Finding:
    """What the running agent says of its connection, which is more than that something listens there."""
    if state == "connected":
        return Finding("mqtt", "ok", f"the agent is connected: {url}")
    return Finding("mqtt", "note" if state == "not connected yet" else "broken", f"{url}: {state}")


def _listens(host: str, port: int) -> bool:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        socket.create_connection((target, port), timeout=2).close()
    except OSError:
        return False
    return True
