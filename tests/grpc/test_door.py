"""The gRPC door beside the others: who may call, a port that is taken, and its end."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.grpc.conftest import SMALL, address, pull, stopped_worker, tensor, until_running
from tests.support.agent import Agent, free_port
from tests.support.onnx_file import write_onnx

Client = triton.InferenceServerClient


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def status(call: Callable[..., Any], *args: Any, **more: Any) -> str:
    """With which the call is refused."""
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **more)
    return str(caught.value.status()).removeprefix("StatusCode.")


@pytest.fixture
def client(guarded_grpc: Agent) -> Client:
    return Client(address(guarded_grpc))


def test_with_keys_every_call_needs_one_but_the_health_check(client: Client, guarded_grpc: Agent) -> None:
    assert status(client.is_server_live) == "UNAUTHENTICATED"
    assert status(client.is_server_live, headers=key("wrong")) == "UNAUTHENTICATED"
    assert status(client.infer, "wide", [tensor("x", [1, 2])]) == "UNAUTHENTICATED"
    assert client.is_server_live(headers=key("key-all"))
    with grpc.insecure_channel(address(guarded_grpc)) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b""]))
        assert stream.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_for_other_models_sees_and_uses_none_of_these(client: Client) -> None:
    narrow = key("key-narrow")
    assert not client.get_model_repository_index(headers=narrow).models
    assert not client.get_inference_statistics(headers=narrow).model_stats
    assert status(client.get_model_config, "wide", headers=narrow) == "NOT_FOUND"
    assert status(client.infer, "wide", [tensor("x", [1, 2])], headers=narrow) == "NOT_FOUND"


def test_loads_and_unloads_are_for_administrators(client: Client) -> None:
    assert status(client.load_model, "wide", headers=key("key-all")) == "PERMISSION_DENIED"
    assert status(client.unload_model, "wide", headers=key("key-all")) == "PERMISSION_DENIED"
    client.load_model("wide", headers=key("key-boss"))
    assert client.is_model_ready("wide", headers=key("key-all"))
    client.unload_model("wide", headers=key("key-boss"))
    assert not client.is_model_ready("wide", headers=key("key-all"))
    answer = client.infer("wide", [tensor("x", [1, 2])], headers=key("key-all"))  # it is loaded again
    assert answer.as_numpy("y").tolist() == [[1, 1]]


def test_over_its_limit_a_key_is_told_when_to_come_back(guarded_grpc: Agent) -> None:
    call = [("authorization", "Bearer key-rare")]
    with grpc.insecure_channel(address(guarded_grpc)) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        one = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
        asked = triton.service_pb2.ModelInferRequest(
            model_name="wide", inputs=[one], raw_input_contents=[np.ones(2, "f4").tobytes()]
        )
        stub.ModelInfer(asked, metadata=call)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(asked, metadata=call)
    error: Any = caught.value
    told = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 1 <= int(told["retry-after"]) <= 60
    assert int(told["grpc-retry-pushback-ms"]) == 1000 * int(told["retry-after"])


def test_a_smaller_bound_of_bodies_holds_here_too(client: Client) -> None:
    big = [tensor("x", [1, 20_000])]
    assert status(client.infer, "wide", big, headers=key("key-all")) == "RESOURCE_EXHAUSTED"


def test_calls_are_counted_by_method_and_code(client: Client, guarded_grpc: Agent) -> None:
    def counted() -> float:
        text = httpx.get(guarded_grpc.base_url + "/metrics", headers={"Authorization": "Bearer key-all"}).text
        wanted = 'autoglm:grpc_requests_total{code="NOT_FOUND",method="ModelReady"} '
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted))

    before = counted()
    assert status(client.is_model_ready, "nosuch", headers=key("key-all")) == "NOT_FOUND"
    assert counted() == before + 1


def test_a_taken_port_is_told_of_and_taken_once_it_is_free(start_agent: Callable[..., Agent]) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        agent = start_agent(AUTOGLM_GRPC_PORT=str(port))
        until = time.monotonic() + 20
        while "grpc" not in agent.status()["doors"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "another program has it; see AUTOGLM_GRPC_PORT" in agent.status()["doors"]["grpc"]
        assert "another program has it" in agent.log
        assert agent.chat("hello").status_code == 200
    with Client(f"127.0.0.1:{port}") as client:
        while True:
            try:
                assert client.is_server_ready()
                break
            except InferenceServerException:
                assert time.monotonic() < until + 20
                time.sleep(0.1)
        assert agent.status()["doors"]["grpc"] == f"listening on 127.0.0.1, port {port}"
        client.start_stream(lambda result, error: None)  # an idle stream does not hold the agent up
        assert agent.stop() == 0
        client.stop_stream(cancel_requests=True)


def test_without_a_port_there_is_no_door_and_grpc_is_not_even_loaded(echo_agent: Agent) -> None:
    assert "grpc" not in echo_agent.status()["doors"]
    assert "cygrpc" not in Path(f"/proc/{echo_agent.pid}/maps").read_text()


def test_at_its_end_running_calls_are_answered_and_new_ones_refused(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent(AUTOGLM_GRPC_PORT=str(free_port()), AUTOGLM_MAX_BATCH_SIZE="1", AUTOGLM_THREADS="1")
    pull(agent, write_onnx(tmp_path / "wide.onnx", **SMALL["wide"]), "wide")
    one = [tensor("x", [1, 2])]
    heard: queue.Queue[Any] = queue.Queue()
    with Client(address(agent)) as client:
        with stopped_worker(agent, client, "wide", one):
            client.async_infer("wide", one, lambda result, error: heard.put(error or result.as_numpy("y")))
            until_running(agent, 1)
            assert agent.process is not None
            agent.process.terminate()
            while (code := status(client.infer, "wide", one, client_timeout=0.5)) != "UNAVAILABLE":
                assert code == "DEADLINE_EXCEEDED"  # it has not heard the signal yet
        assert heard.get(timeout=20).tolist() == [[1, 1]]
        assert agent.stop() == 0
