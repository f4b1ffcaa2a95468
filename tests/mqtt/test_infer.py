"""Tensors by MQTT, through a real mosquitto, by the real magika: they are promised what prompts are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.shelf import Shelf
from models.sources import pull
from tests.mqtt.broker import LENGTH, ONE, Heard, Mosquitto, chat
from tests.mqtt.conftest import Node
from tests.mqtt.test_kills import payloads, stored

Rows = NDArray[np.int32]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def alone(magika_path: Path) -> Callable[[Rows], NDArray[np.float32]]:
    """What onnxruntime itself makes of these rows."""
    session = ort.InferenceSession(magika_path, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"bytes": rows})[0]  # type: ignore[no-any-return]


def rows(count: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).integers(0, 257, (count, 2048), np.int32)


def asked(id: str, values: Rows, **more: Any) -> dict[str, Any]:
    one = {"name": "bytes", "shape": list(values.shape), "datatype": "INT32", "data": values.tolist()}
    return {"id": id, "inputs": [one], **more}


def raw(id: str, values: Rows, **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body with the binary tensor extension, and its User Property."""
    data = values.tobytes()
    one = {"name": "bytes", "shape": list(values.shape), "datatype": "INT32"}
    head = {"id": id, "inputs": [{**one, "parameters": {"binary_data_size": len(data)}}], **more}
    start = json.dumps(head).encode()
    return start + data, {LENGTH: str(len(start))}


def probabilities(heard: Heard) -> NDArray[np.float32]:
    """`target_label`, as JSON or raw."""
    length = int(heard.user.get(LENGTH, len(heard.payload)))
    [output] = json.loads(heard.payload[:length])["outputs"]
    data = np.frombuffer(heard.payload[length:], np.float32) if "parameters" in output else output["data"]
    return np.asarray(data, np.float32).reshape(output["shape"])


def test_the_result_is_onnxruntimes_own(
    tensor_node: Node, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    values = rows(3)
    with tensor_node.client(tensor_node.topic("results", "#")) as client:
        client.publish(tensor_node.topic("infer", "magika"), asked("own", values))
        [result] = client.on(tensor_node.topic("results", "own"))
        version = result.json["model_version"]
        assert (result.json["model_name"], result.json["id"], result.user) == ("magika", "own", {})
        assert [one["name"] for one in result.json["outputs"]] == ["target_label"]
        np.testing.assert_allclose(probabilities(result), alone(values), atol=TOLERANCE)
        client.publish(tensor_node.topic("infer", f"magika:{version}", "ann"), asked("own", values))
        [named] = client.on(tensor_node.topic("results", "ann", "own"))
        np.testing.assert_allclose(probabilities(named), alone(values), atol=TOLERANCE)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("how", ["binary_data_output", "binary_data"])
def test_raw_tensors_come_and_go_with_a_user_property(
    tensor_node: Node, alone: Callable[[Rows], NDArray[np.float32]], binary_in: bool, how: str
) -> None:
    values, id = rows(2), f"raw-{binary_in}-{how}"
    wanted: dict[str, Any] = (
        {"parameters": {"binary_data_output": True}}
        if how == "binary_data_output"
        else {"outputs": [{"name": "target_label", "parameters": {"binary_data": True}}]}
    )
    body, user = raw(id, values, **wanted) if binary_in else (asked(id, values, **wanted), {})
    with tensor_node.client("my/#") as client:
        for count in (1, 2):
            topic = tensor_node.topic("infer", "magika")
            client.publish(topic, body, reply="my/tensors", correlation=b"\x00", user=user)
            results = client.on("my/tensors", count)
    assert results[0].correlation == b"\x00"
    assert len(results[0].payload) - int(results[0].user[LENGTH]) == 2 * 214 * 4
    np.testing.assert_allclose(probabilities(results[0]), alone(values), atol=TOLERANCE)
    assert results[1] == results[0]


def test_the_same_again_gets_the_same_bytes_and_anything_else_is_a_conflict(tensor_node: Node) -> None:
    body = json.dumps({"id": "twice", "inputs": [ONE]}).encode()
    with tensor_node.client(tensor_node.topic("results", "#"), "my/#") as client:
        for count in (1, 2):
            client.publish(tensor_node.topic("infer", "wide", "ann"), body)
            results = client.on(tensor_node.topic("results", "ann", "twice"), count)
        assert results[1] == results[0]
        others: list[tuple[str, Any, dict[str, str]]] = [
            ("infer/wide/ann", {"id": "twice", "inputs": [{**ONE, "data": [1.0, 3.0]}]}, {}),
            ("infer/magika/ann", body, {}),  # the very same for another Model
            ("infer/wide/ann", body, {LENGTH: str(len(body))}),
            ("prompts/ann", chat("twice"), {}),  # ids are the sender's, whatever is asked
        ]
        for count, (topic, other, user) in enumerate(others, 1):
            client.publish(tensor_node.topic(topic), other, reply="my/conflicts", user=user)
            assert client.on("my/conflicts", count)[-1].json["error"]["code"] == "conflict", topic
        client.publish(tensor_node.topic("infer", "wide", "bob"), {"id": "twice", "inputs": [ONE]})
        assert client.on(tensor_node.topic("results", "bob", "twice"))[0].json["outputs"][0]["data"] == [
            1.0,
            2.0,
        ]


def test_acked_tensors_have_one_distinct_result_through_a_kill(
    tensor_node: Node, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    """`acks` is a parameter here; and what the agent had not yet answered, it answers when it is back."""
    values = {f"kill-{number}": rows(4, number) for number in range(64)}
    wanted = {"binary_data_output": True, "acks": True}
    with tensor_node.client(tensor_node.topic("results", "#"), client_id="tensor-receiver") as client:
        for id, given in values.items():
            body, user = raw(id, given, parameters=wanted)
            client.publish(tensor_node.topic("infer", "magika"), body, user=user)
        client.wait(lambda heard: heard)
        tensor_node.agent.kill()
        before = {id: result for id, result in stored(tensor_node.state).items() if id in values}
        assert None in before.values()  # kept, and not answered yet
        tensor_node.agent.start()
        client.wait(lambda heard: values.keys() <= payloads(heard).keys())
        found = payloads(client.heard)
        final = stored(tensor_node.state)
        for id, given in values.items():
            assert found[id] == {final[id]}
            assert before.get(id) in (None, final[id])
            result = next(one for one in client.heard if one.topic.endswith(f"/{id}"))
            np.testing.assert_allclose(probabilities(result), alone(given), atol=TOLERANCE)
        assert sum(len(client.on(tensor_node.topic("results", id))) for id in values) > len(values)
        client.publish(tensor_node.topic("acks"), json.dumps(list(values)).encode())


def test_a_killed_worker_costs_no_tensors(
    tensor_node: Node, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    with tensor_node.client(tensor_node.topic("results", "#")) as client:
        for number in range(40):
            body, user = raw(f"w-{number}", rows(4, number))
            client.publish(tensor_node.topic("infer", "magika", "w"), body, user=user)
        client.wait(lambda heard: any("/w/" in one.topic for one in heard))
        [pid] = [
            one["worker"]["pid"] for one in tensor_node.agent.status()["models"] if one["name"] == "magika"
        ]
        os.kill(pid, signal.SIGKILL)
        for number in range(40):
            [result] = client.on(tensor_node.topic("results", "w", f"w-{number}"))
            np.testing.assert_allclose(probabilities(result), alone(rows(4, number)), atol=TOLERANCE)


def test_tensors_are_answered_while_the_default_model_cannot_be_had(
    start_node: Callable[..., Node],
    start_agent: Callable[..., Any],
    broker: Mosquitto,
    wide: Path,
    tmp_path: Path,
) -> None:
    asyncio.run(pull(str(wide), Shelf(tmp_path / "models"), name="wide", report=lambda _: None))
    agent = start_agent(
        ready=False,
        data_dir=tmp_path,
        AUTOGLM_NODE="headless",
        AUTOGLM_MQTT_URL=broker.url,
        AUTOGLM_MODEL="/nonexistent.gguf",
        AUTOGLM_REQUEST_TIMEOUT_S="2",  # which its load may outlast: what is kept is patient
        AUTOGLM_MAX_BATCH_SIZE="1",
    ).connected()
    node = Node(agent, broker, "headless")
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts"), chat("waits"))
        client.publish(node.topic("infer", "wide"), {"id": "goes-on", "inputs": [ONE]})
        assert client.on(node.topic("results", "goes-on"))[0].json["model_name"] == "wide"
        assert [one.topic for one in client.heard] == [node.topic("results", "goes-on")]
    agent.stop()


def test_a_node_of_3_1_1_takes_and_gives_json_alone(
    start_node: Callable[..., Node], broker: Mosquitto, wide: Path
) -> None:
    node = start_node(
        broker, "old-tensors", "3.1.1", AUTOGLM_MAX_BATCH_SIZE="1", AUTOGLM_MAX_BODY_BYTES="4096"
    )
    node.agent.pull(wide, "wide")
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("infer", "wide"), {"id": "json", "inputs": [ONE]})
        assert client.on(node.topic("results", "json"))[0].json["outputs"][0]["data"] == [1.0, 2.0]
        raw_wanted = {"id": "raw", "inputs": [ONE], "parameters": {"binary_data_output": True}}
        client.publish(node.topic("infer", "wide"), raw_wanted)
        assert "3.1.1" in client.on(node.topic("results", "raw"))[0].json["error"]["message"]
        # An answer that is longer than what this node takes would be more than its receivers expect.
        many = {**ONE, "shape": [1, 600], "data": [0.1] * 600}
        client.publish(node.topic("infer", "wide"), {"id": "long", "inputs": [many]})
        [error] = client.on(node.topic("results", "long"))
        assert error.json["error"]["code"] == "request_too_large"
    node.agent.stop()
