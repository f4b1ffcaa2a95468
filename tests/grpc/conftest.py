"""An agent with a gRPC door, its models of tensors, and Triton's own client."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from tests.http.conftest import KEYS
from tests.support.agent import Agent, free_port
from tests.support.onnx_file import FLOAT, INT64, STRING, write_onnx

Rows = NDArray[np.int32]
MOST = 4  # rows of a request, as the agent is set

SMALL = {
    "texts": {"inputs": [("x", STRING, (None,))], "outputs": [("y", STRING, (None,))]},
    "wide": {"inputs": [("x", FLOAT, (None, None))], "outputs": [("y", FLOAT, (None, None))]},
    "fixed": {"inputs": [("x", INT64, (2, 2))], "outputs": [("y", INT64, (2, 2))]},
    "sum": {"op": "Add", "inputs": [("a", FLOAT, (None, 2)), ("b", FLOAT, (None, 2))]},
}


def pull(agent: Agent, file: Path, name: str) -> None:
    transport = httpx.HTTPTransport(uds=str(agent.socket))
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        answer = client.post("/api/pull", json={"source": str(file), "name": name})
        assert "version" in answer.text.splitlines()[-1], answer.text


def address(agent: Agent) -> str:
    return f"127.0.0.1:{agent.environment['AUTOGLM_GRPC_PORT']}"


@pytest.fixture(scope="session")
def grpc_agent(
    start_agent: Callable[..., Agent], magika_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """One that serves magika, small models of all kinds, and an echo of texts. Few trials: a quick load."""
    agent = start_agent(
        shared=True,
        AUTOGLM_GRPC_PORT=str(free_port()),
        AUTOGLM_MAX_BATCH_SIZE=str(MOST),
        AUTOGLM_THREADS="1",
    )
    folder = tmp_path_factory.mktemp("onnx")
    pull(agent, magika_path, "magika")
    for name, how in SMALL.items():
        pull(agent, write_onnx(folder / f"{name}.onnx", **how), name)
    return agent


@pytest.fixture(scope="session")
def guarded_grpc(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Keys, small bodies, and one model of tensors, "wide"."""
    agent = start_agent(
        shared=True,
        AUTOGLM_GRPC_PORT=str(free_port()),
        AUTOGLM_API_KEYS=json.dumps(KEYS),
        AUTOGLM_MAX_BODY_BYTES="65536",
        AUTOGLM_BODY_TIMEOUT_S="3",
        AUTOGLM_MAX_BATCH_SIZE="1",
        AUTOGLM_THREADS="1",
    )
    pull(agent, write_onnx(tmp_path_factory.mktemp("onnx") / "wide.onnx", **SMALL["wide"]), "wide")
    return agent


@pytest.fixture
def client(grpc_agent: Agent) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(grpc_agent)) as client:
        yield client


@pytest.fixture
def channel(grpc_agent: Agent) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address(grpc_agent)) as channel:
        yield channel


@pytest.fixture(scope="session")
def alone(magika_path: Path) -> Callable[[Rows], NDArray[np.float32]]:
    """What onnxruntime itself makes of these rows."""
    session = ort.InferenceSession(magika_path, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"bytes": rows})[0]  # type: ignore[no-any-return]


def rows(count: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).integers(0, 257, (count, 2048), np.int32)


def asked(values: Rows) -> list[triton.InferInput]:
    one = triton.InferInput("bytes", list(values.shape), "INT32")
    one.set_data_from_numpy(values)
    return [one]


def tensor(
    name: str, shape: list[int], datatype: str = "FP32", values: NDArray[np.generic] | None = None
) -> triton.InferInput:
    one = triton.InferInput(name, shape, datatype)
    one.set_data_from_numpy(np.ones(shape, np.float32) if values is None else values)
    return one


@contextmanager
def stopped_worker(
    agent: Agent, client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput]
) -> Iterator[None]:
    """A model's Worker, loaded, hears nothing for a while."""
    client.infer(model, inputs)
    (worker,) = [one["worker"]["pid"] for one in agent.status()["models"] if one["name"] == model]
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def until_running(agent: Agent, count: int) -> None:
    until = time.monotonic() + 20
    while (now := agent.status()["running"]) != count:
        assert time.monotonic() < until, f"{now} run"
        time.sleep(0.01)
