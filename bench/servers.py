"""The contestants that answer over HTTP: how each is started at its best, and what it takes of the box."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from time import monotonic, perf_counter, sleep
from typing import Any

from bench import peers, prompts, sse

START_S = 120.0  # a server that is silent for longer is broken


@dataclass(frozen=True, slots=True)
class Setup:
    """What is alike for all: the model's file, the slots, the context of each (tokens), the threads."""

    model: Path
    slots: int = 32
    context: int = 1024
    threads: int = os.cpu_count() or 1


KV = tuple[str, bool]
KV_CHOICES: tuple[KV, ...] = (("q8_0", True), ("f16", True), ("f16", False))
"""Type of the KV cache, and flash attention (which a quantised cache needs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How to start one; `{port}`, `{grpc}` and `{spare}` in the command and the environment are filled in."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # merged into each request
    warm: bool = False  # measured after a mixed load, as a server is that has run for a while
    serial: bool = False  # answers one request at a time: fewer of them tell as much
    folder: Path | None = None  # where it is started


@dataclass(slots=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    grpc: int
    cold_start_s: float  # from exec to the first token, or answer

    def peak_bytes(self) -> int:
        """VmHWM of the process and all its descendants, summed (pages that they share count for each)."""
        return sum(_high_water(pid) for pid in tree(self.process.pid))

    def cpu_s(self) -> float:
        """CPU of the process and all its living descendants until now."""
        return sum(cpu_s(pid) for pid in tree(self.process.pid))


Ask = Callable[[Running], float]
"""When the first answer came, on the monotonic clock. OSError or sse.Refused: there is none yet."""


def agent(setup: Setup, **settings: str) -> Server:
    """This agent, as `autoglm serve` starts it, with a shelf of its own. It chooses its KV cache itself."""
    model = {} if setup.model.is_relative_to(peers.AGENT_DATA) else {"MODEL_NAME": str(setup.model)}
    ours = {
        "AUTOGLM_CONTEXT": str(setup.context),
        "AUTOGLM_MAX_BATCH_SIZE": str(setup.slots),
        "AUTOGLM_THREADS": str(setup.threads),
    }
    return untuned_agent(**ours | model | settings)


def untuned_agent(**settings: str) -> Server:
    """This agent with its own choices, but for these settings."""
    ours = {
        "AUTOGLM_CONFIG": os.devnull,
        "AUTOGLM_DATA_DIR": str(peers.AGENT_DATA),
        "AUTOGLM_HTTP_PORT": "{port}",
        "AUTOGLM_GRPC_PORT": "{grpc}",
        "AUTOGLM_MQTT_URL": "none",
        "AUTOGLM_LOG_LEVEL": "warning",
    }
    return Server(
        name="this agent",
        command=[str(Path(sys.executable).with_name("autoglm")), "serve"],
        environment=ours | settings,
        extra={"ignore_eos": True},
        warm=True,
    )


def cpp(setup: Setup, binary: Path, kv: KV, *, warm: bool, options: tuple[str, ...] = ()) -> Server:
    """llama.cpp's own server, on the libraries that the agent runs on."""
    kv_type, flash = kv
    slots = ["-np", str(setup.slots), "-c", str(setup.slots * setup.context), "--no-kv-unified"]
    cache = ["-ctk", kv_type, "-ctv", kv_type, "-fa", "on" if flash else "off"]
    rest = ["-t", str(setup.threads), "-tb", str(setup.threads), "--log-disable", "--cache-ram", "0"]
    place = ["-m", str(setup.model), "--host", "127.0.0.1", "--port", "{port}"]
    return Server(
        name=f"llama-server, {'warm' if warm else 'fresh'}",
        command=[str(binary), *place, *slots, *cache, *rest, *options],
        environment={"LD_LIBRARY_PATH": f"{peers.libraries()}:{binary.parent}"},
        extra={"ignore_eos": True, "cache_prompt": True},
        warm=warm,
    )


def python(setup: Setup, interpreter: Path, kv: KV) -> Server:
    """llama_cpp.server: one request at a time. It keeps the prefix of its last prompt by itself."""
    ggml_type = {"f16": "1", "q8_0": "8"}[kv[0]]
    options = {
        "model": str(setup.model),
        "host": "127.0.0.1",
        "port": "{port}",
        "interrupt_requests": "False",  # or it cuts running requests short
        "n_ctx": str(setup.context),
        "n_threads": str(setup.threads),
        "n_threads_batch": str(setup.threads),
        "flash_attn": str(kv[1]),
        "type_k": ggml_type,
        "type_v": ggml_type,
        "logits_all": "False",
        "verbose": "False",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Server(
        name="llama_cpp.server",
        command=[str(interpreter), "-m", "llama_cpp.server", *flags],
        environment={"OMP_WAIT_POLICY": "active"},  # several times faster with it
        extra={"logit_bias": dict.fromkeys(("0", "2", "4"), -100)},  # SmolLM2's ends; it knows no ignore_eos
        serial=True,
    )


@contextlib.contextmanager
def started(server: Server, ask: Ask | None = None) -> Iterator[Running]:
    """The server, once it has answered; stopped again at the end. `ask`: else it is asked for tokens."""
    ports = dict(zip(("port", "grpc", "spare"), _free_ports(3), strict=True))
    log = peers.CACHE / "logs" / f"{server.name.replace(' ', '-').replace(',', '')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        environment = {name: value.format(**ports) for name, value in server.environment.items()}
        begun = perf_counter()
        process = subprocess.Popen(
            [part.format(**ports) for part in server.command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=server.folder,
            start_new_session=True,
        )
    running = Running(process, ports["port"], ports["grpc"], 0.0)
    try:
        running.cold_start_s = _first_answer(server, running, log, ask or _first_token(server)) - begun
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):  # LitServe leaves its workers behind
            os.killpg(process.pid, SIGKILL)


def _first_answer(server: Server, running: Running, log: Path, ask: Ask) -> float:
    """Ask until there is an answer; when it came, on the monotonic clock."""
    deadline = monotonic() + START_S
    while monotonic() < deadline and running.process.poll() is None:
        try:
            return ask(running)
        except (OSError, sse.Refused):
            sleep(0.005)
    raise SystemExit(f"{server.name} does not answer; its log is {log}")


def _first_token(server: Server) -> Ask:
    body = {"messages": prompts.messages(0), "max_tokens": 2, "temperature": 0, "stream": True}

    def ask(running: Running) -> float:
        exchange = sse.Exchange()
        request = sse.post("127.0.0.1", running.port, "/v1/chat/completions", body | dict(server.extra))
        asyncio.run(sse.ask("127.0.0.1", running.port, request, exchange))
        return sse.read(exchange).stamps[0]

    return ask


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def tree(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # ended meanwhile
            for child in children.read_text().split():
                yield from tree(int(child))


def cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):  # ended meanwhile
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _high_water(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
