"""The server and its models, by Triton's own gRPC client; and the protocol's field numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from tests.grpc.conftest import MOST, asked, rows, tensor
from tests.support.agent import Agent

Client = triton.InferenceServerClient

OURS = """
import json
from agent.doors.grpc import oip_pb2

def told(message):
    fields = {one.name: [one.number, one.type, one.is_repeated] for one in message.fields}
    return {message.full_name: fields} | {k: v for one in message.nested_types for k, v in told(one).items()}

found = oip_pb2.DESCRIPTOR
enums = {one.full_name: dict(one.values_by_name.items()) for one in found.enum_types_by_name.values()}
print(json.dumps({
    "messages": {k: v for one in found.message_types_by_name.values() for k, v in told(one).items()},
    "enums": {name: {key: one.number for key, one in values.items()} for name, values in enums.items()},
    "calls": [one.name for one in found.services_by_name["GRPCInferenceService"].methods],
}))
"""


def test_every_message_has_tritons_field_numbers() -> None:
    """In a process of its own: both have messages of the same names."""
    ours = json.loads(subprocess.check_output([sys.executable, "-c", OURS]))
    pool = service_pb2.DESCRIPTOR.pool
    assert len(ours["messages"]) > 40
    for name, fields in ours["messages"].items():
        theirs = {
            one.name: [one.number, one.type, one.is_repeated]
            for one in pool.FindMessageTypeByName(name).fields
        }
        assert fields == {field: theirs[field] for field in fields}, name
    for name, values in ours["enums"].items():
        theirs = pool.FindEnumTypeByName(name).values_by_name
        assert values == {key: one.number for key, one in theirs.items()}, name


def test_the_client_sees_server_and_models(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "open-autoglm-edge"
    about = client.get_model_metadata("magika", as_json=True)
    assert about["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": ["-1", "2048"]}]
    assert about["outputs"] == [{"name": "target_label", "datatype": "FP32", "shape": ["-1", "214"]}]
    assert client.get_model_metadata("magika", about["versions"][0], as_json=True) == about
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    assert index.keys() == {"echo", "magika", "texts", "wide", "fixed", "sum"}
    assert index["echo"] == "READY"
    assert client.is_model_ready("echo")


@pytest.mark.parametrize(("model", "version"), [("nosuch", ""), ("magika", "000000000000"), ("", "")])
def test_what_is_not_here_is_not_found(client: Client, model: str, version: str) -> None:
    calls = (
        client.is_model_ready,
        client.get_model_metadata,
        client.get_model_config,
        lambda *name: client.infer(name[0], asked(rows(1)), name[1]),
    )
    for call in calls:
        with pytest.raises(InferenceServerException) as caught:
            call(model, version)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize(
    "call", ["get_system_shared_memory_status", "get_cuda_shared_memory_status", "get_trace_settings"]
)
def test_the_rest_of_triton_is_unimplemented_over_grpc_and_told_in_words_over_http(
    client: Client, grpc_agent: Agent, call: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call)()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    with (
        tritonclient.http.InferenceServerClient(f"127.0.0.1:{grpc_agent.port}") as over_http,
        pytest.raises(InferenceServerException, match=r"this node has no (shared memory|tracing)"),
    ):
        getattr(over_http, call)()


def test_log_settings_are_told_to_be_elsewhere(grpc_agent: Agent) -> None:
    answer = httpx.post(f"{grpc_agent.base_url}/v2/logging", json={"log_verbose_level": 1})
    assert answer.status_code == 501
    assert "AUTOGLM_LOG_LEVEL" in answer.json()["error"]


def test_the_configuration_is_what_is_in_force_by_both_doors(client: Client, grpc_agent: Agent) -> None:
    client.infer("magika", asked(rows(1)))
    told = client.get_model_config("magika").config
    assert (told.platform, told.backend, told.max_batch_size) == ("onnxruntime_onnx", "onnxruntime", MOST)
    assert [(one.name, one.data_type, list(one.dims)) for one in told.input] == [
        ("bytes", model_config_pb2.TYPE_INT32, [2048])
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in told.output] == [
        ("target_label", model_config_pb2.TYPE_FP32, [214])
    ]
    assert [(one.kind, one.count) for one in told.instance_group] == [(2, 1)]
    assert told.dynamic_batching.preferred_batch_size[0] in (1, 2, 4)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{grpc_agent.port}") as over_http:
        theirs = over_http.get_model_config("magika")
        version = client.get_model_metadata("magika").versions[0]
        assert over_http.get_model_config("magika", version) == theirs
    assert theirs == {
        "name": "magika",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": MOST,
        "input": [{"name": "bytes", "data_type": "TYPE_INT32", "dims": [2048]}],
        "output": [{"name": "target_label", "data_type": "TYPE_FP32", "dims": [214]}],
        "instance_group": [{"name": "magika_0", "kind": "KIND_CPU", "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": list(told.dynamic_batching.preferred_batch_size),
            "max_queue_delay_microseconds": 0,
        },
    }


def test_the_configuration_of_other_kinds_of_model(client: Client) -> None:
    fixed = client.get_model_config("fixed").config
    assert (fixed.max_batch_size, list(fixed.input[0].dims)) == (0, [2, 2])
    assert not fixed.HasField("dynamic_batching")
    texts = client.get_model_config("texts").config
    assert texts.input[0].data_type == model_config_pb2.TYPE_STRING
    assert (list(texts.input[0].dims), list(texts.input[0].reshape.shape)) == ([1], [])
    echo = client.get_model_config("echo").config
    assert (echo.backend, echo.max_batch_size, len(echo.input)) == ("llama.cpp", 0, 0)


def statistics(client: Client, model: str) -> dict[str, Any]:
    (found,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return found  # type: ignore[no-any-return]


def test_statistics_count_what_was_done(client: Client, grpc_agent: Agent) -> None:
    client.infer("sum", [tensor("a", [1, 2]), tensor("b", [1, 2])])
    before = client.get_inference_statistics("sum").model_stats[0]
    for count in (1, 3, 3):
        client.infer("sum", [tensor("a", [count, 2]), tensor("b", [count, 2])])
    with pytest.raises(InferenceServerException):
        client.infer("sum", [tensor("a", [2, 2]), tensor("b", [3, 2])])
    after = client.get_inference_statistics("sum").model_stats[0]
    assert after.inference_count - before.inference_count == 7
    assert after.execution_count - before.execution_count == 3
    assert after.last_inference >= before.last_inference > 1_700_000_000_000
    ours, theirs = after.inference_stats, before.inference_stats
    for part in ("success", "queue", "compute_infer"):
        assert getattr(ours, part).count - getattr(theirs, part).count == 3
        assert getattr(ours, part).ns > getattr(theirs, part).ns
    assert ours.success.ns == pytest.approx(ours.queue.ns + ours.compute_infer.ns, rel=0.01)
    assert (ours.fail.count - theirs.fail.count, ours.fail.ns > theirs.fail.ns) == (1, True)
    sizes = [
        {one.batch_size: one.compute_infer.count for one in each.batch_stats} for each in (before, after)
    ]
    assert {size: count - sizes[0].get(size, 0) for size, count in sizes[1].items()} == {1: 1, 3: 2}
    assert sum(one.compute_infer.ns for one in after.batch_stats) <= ours.compute_infer.ns


def test_statistics_are_the_same_by_both_doors(client: Client, grpc_agent: Agent) -> None:
    told = {one.name: one for one in client.get_inference_statistics().model_stats}
    assert told.keys() == {"magika", "texts", "wide", "fixed", "sum"}
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{grpc_agent.port}") as over_http:
        theirs = {one["name"]: one for one in over_http.get_inference_statistics()["model_stats"]}
        assert theirs.keys() == told.keys()
        (one,) = over_http.get_inference_statistics("sum", told["sum"].version)["model_stats"]
        assert one == theirs["sum"]
    assert one["inference_stats"]["success"]["count"] == told["sum"].inference_stats.success.count
    assert one["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
    assert [each["batch_size"] for each in one["batch_stats"]] == [
        each.batch_size for each in told["sum"].batch_stats
    ]
    with pytest.raises(InferenceServerException, match="generates text"):
        client.get_inference_statistics("echo")


def test_the_standard_health_service_says_whether_a_model_is_ready(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    ask = health_pb2.HealthCheckRequest
    serving = health_pb2.HealthCheckResponse.SERVING
    assert health.Check(ask()).status == serving
    assert health.Check(ask(service="inference.GRPCInferenceService")).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(ask(service="another"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    watch = health.Watch(ask())
    assert next(watch).status == serving
    watch.cancel()
