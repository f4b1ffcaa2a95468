"""The servers: how each is started, what it speaks, and whether its answers are right."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from time import perf_counter

import grpc
from rich.console import Console

from agent.engines.tensors import dtype
from bench import peers, servers, sse
from bench.servers import Running, Server
from bench.tensors import wire
from bench.tensors.cases import Case

AGENT, MLSERVER, LITSERVE = "this agent", "MLServer", "LitServe"
MLSERVER_WANTS = ("mlserver==1.7.1", "fastapi==0.115.14", "uvloop==0.21.0", "grpcio==1.85.3")
LITSERVE_WANTS = ("litserve==0.2.19",)
DELAY_S = 0.005  # how long the peers' batches wait for company, as users set it


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user of a peer chooses: the largest batch, and the processes that run the model."""

    cap: int = 32
    workers: int = 1

    def __str__(self) -> str:
        return f"cap {self.cap}, {self.workers} worker{'s' * (self.workers > 1)}"


USUAL = Choice()


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    server: Server
    protocols: tuple[str, ...]

    @property
    def rests(self) -> bool:
        """The peers poll while they have nothing to do, so they are stopped while others are measured."""
        return self.name != AGENT


def agent(asked: Case) -> Contestant:
    """Nothing is tuned by hand."""
    server = servers.untuned_agent(AUTOGLM_MODEL=asked.model)
    return Contestant(AGENT, server, ("http", "json", "grpc"))


def mlserver(console: Console, asked: Case, choice: Choice = USUAL) -> Contestant:
    """Its HTTP knows JSON alone. Metrics are on, as with us; its log of requests is off."""
    python = _environment(console, MLSERVER, MLSERVER_WANTS)
    folder = peers.CACHE / "mlserver" / f"{asked.model}-{choice.cap}-{choice.workers}"
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "name": asked.model,
        "implementation": "bench.tensors.mlserver_runtime.OnnxRuntime",
        "parameters": {"uri": str(asked.path)},
        "max_batch_size": choice.cap,
        "max_batch_time": DELAY_S,
    }
    general = {"host": "127.0.0.1", "debug": False, "parallel_workers": choice.workers}
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(json.dumps(general))
    ports = {
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{grpc}",
        "MLSERVER_METRICS_PORT": "{spare}",
    }
    command = [str(python.with_name("mlserver")), "start", str(folder)]
    return _peer(MLSERVER, choice, command, folder, ("json", "grpc"), ports)


def litserve(console: Console, asked: Case, choice: Choice = USUAL) -> Contestant:
    python = _environment(console, LITSERVE, LITSERVE_WANTS)
    what = [str(asked.path), dtype(asked.input.datatype).str, ",".join(map(str, asked.shape))]
    how = [str(choice.cap), str(choice.workers), "{port}"]
    command = [str(python), "-m", "bench.tensors.litserve_app", *what, *how]
    return _peer(LITSERVE, choice, command, peers.CACHE, ("bytes",), {})


def _environment(console: Console, name: str, wanted: tuple[str, ...]) -> Path:
    """With the agent's own onnxruntime and numpy."""
    same = [f"{one}=={version(one)}" for one in ("onnxruntime", "numpy")]
    home = peers.CACHE / f"{wanted[0].replace('==', '-')}-onnxruntime-{version('onnxruntime')}"
    return peers.environment(console, name, home, [*wanted, *same])


def _peer(
    name: str,
    choice: Choice,
    command: list[str],
    folder: Path,
    protocols: tuple[str, ...],
    ports: dict[str, str],
) -> Contestant:
    name = f"{name}, {choice}"
    environment = {"PYTHONPATH": str(peers.ROOT)} | ports
    return Contestant(
        name, Server(name=name, command=command, environment=environment, folder=folder), protocols
    )


@contextmanager
def started(one: Contestant, asked: Case, protocols: tuple[str, ...]) -> Iterator[Running]:
    """The server, once it has answered rightly by each of the protocols that it speaks. Peers then rest."""
    with servers.started(one.server, answers(one, asked, protocols)) as running:
        try:
            _signal(one, running, SIGSTOP)
            yield running
        finally:
            _signal(one, running, SIGCONT)


def answers(one: Contestant, asked: Case, protocols: tuple[str, ...]) -> servers.Ask:
    """SystemExit where it answers wrongly."""

    def ask(running: Running) -> float:
        for protocol in set(one.protocols) & set(protocols):
            _check(one, asked, protocol, running)
        return perf_counter()

    return ask


@contextmanager
def awake(one: Contestant, running: Running) -> Iterator[None]:
    _signal(one, running, SIGCONT)
    try:
        yield
    finally:
        _signal(one, running, SIGSTOP)


def _signal(one: Contestant, running: Running, number: int) -> None:
    if one.rests:
        for pid in list(servers.tree(running.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _check(one: Contestant, asked: Case, protocol: str, running: Running) -> None:
    try:
        if protocol == "grpc":
            data = _by_grpc(running.grpc, wire.request(asked, protocol, running.grpc))
        else:
            data = by_http(running.port, wire.request(asked, protocol, running.port))
        answer = wire.answer(asked, protocol, data)
    except (wire.Refused, grpc.RpcError) as error:
        raise sse.Refused(str(error)) from None
    if not asked.right(answer):
        raise SystemExit(f"{one.name} answers wrongly by {protocol}: {answer[:5]}")


def by_http(port: int, request: bytes) -> bytes:
    """The whole of a response. wire.Refused, OSError: there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        data = b""
        while (found := wire.head(data)) is None or len(data) < found[2]:
            if not (piece := connection.recv(1 << 20)):
                raise wire.Refused("the server broke off")
            data += piece
        return data


def _by_grpc(port: int, request: bytes) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(wire.METHOD)(request, timeout=30)
        return answer
