"""Tensors by MQTT that cannot be: an error at their address or on `errors`, and nothing else is disturbed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.mqtt.broker import LENGTH, ONE
from tests.mqtt.conftest import Node
from tests.mqtt.test_kills import stored

TEXT = {"id": "bad", "inputs": [ONE]}
REFUSED: dict[str, tuple[Any, str, str]] = {
    "no JSON": (b"\x93NUMPY rubbish", "", "not an inference request"),
    "nothing": (b"", "", "not an inference request"),
    "nested too deep": (b'{"id": "bad", "inputs": ' + b"[" * 100_000, "", "nested too deeply"),
    "an array": ([1], "", "not an inference request"),
    "no id": ({"inputs": [ONE]}, "", "'id' is missing"),
    "an id that is a number": ({"id": 7, "inputs": [ONE]}, "", "'id' must be text"),
    "an id with a slash": ({"id": "a/b", "inputs": [ONE]}, "", "'id' must be text"),
    "no inputs": ({"id": "bad"}, "bad", "inputs"),
    "empty inputs": ({"id": "bad", "inputs": []}, "bad", "1 to 1024 inputs"),
    "no data": ({"id": "bad", "inputs": [{**ONE, "data": None}]}, "bad", "has no data"),
    "too few values": ({"id": "bad", "inputs": [{**ONE, "data": [1.0]}]}, "bad", "asks for 2"),
    "a text among numbers": ({"id": "bad", "inputs": [{**ONE, "data": [1.0, "x"]}]}, "bad", "no FP32"),
    "acks that is no boolean": ({**TEXT, "parameters": {"acks": "yes"}}, "bad", "'acks' must be"),
    "a priority of 10": ({**TEXT, "parameters": {"priority": 10}}, "bad", "priority"),
    "parameters that are none": ({**TEXT, "parameters": 5}, "bad", "parameters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_body_is_refused_where_its_result_would_be_else_on_errors(tensor_node: Node, kind: str) -> None:
    body, id, says = REFUSED[kind]
    at = tensor_node.topic("results", id) if id else tensor_node.topic("errors")
    with tensor_node.client(tensor_node.topic("errors"), tensor_node.topic("results", "#"), "my/#") as client:
        client.publish(tensor_node.topic("infer", "wide"), body)
        [error] = client.on(at)
        assert (error.json.get("id", ""), error.json["error"]["code"]) == (id, "invalid_request")
        assert says in error.json["error"]["message"]
        client.publish(tensor_node.topic("infer", "wide", "ann"), body, reply="my/topic", correlation=b"c")
        [error] = client.on("my/topic")
        assert (error.correlation, says in error.json["error"]["message"]) == (b"c", True)


@pytest.mark.parametrize(
    ("length", "size", "says"),
    [
        ("x", 8, "must be a number"),
        ("²", 8, "must be a number"),
        ("9" * 5000, 8, "must be a number"),
        ("0", 8, "is 0"),
        ("9999", 8, "is 9999"),
        ("all", 7, "7 bytes are left"),
        ("all", 9, "1 bytes behind the tensors"),
    ],
)
def test_raw_bytes_that_do_not_add_up_are_refused(
    tensor_node: Node, length: str, size: int, says: str
) -> None:
    one = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    start = json.dumps({"id": "sums", "inputs": [one]}).encode()
    with tensor_node.client("my/#") as client:
        user = {LENGTH: str(len(start)) if length == "all" else length}
        client.publish(tensor_node.topic("infer", "wide"), start + bytes(size), reply="my/topic", user=user)
        [error] = client.on("my/topic")
        assert says in error.json["error"]["message"]


@pytest.mark.parametrize(
    ("topic", "body", "code", "says"),
    [
        ("infer/echo", {"id": "m", "inputs": [ONE]}, "invalid_request", "publish to prompts"),
        ("prompts", {"id": "m", "prompt": "x", "model": "wide"}, "invalid_request", "publish to infer/wide"),
        ("infer/nosuch", {"id": "m", "inputs": [ONE]}, "model_not_found", "not on this node"),
        ("infer/wide:0123456789ab", {"id": "m", "inputs": [ONE]}, "model_not_found", "not on this node"),
        ("infer/", {"id": "m", "inputs": [ONE]}, "invalid_request", "must be a model"),
        ("infer/a b", {"id": "m", "inputs": [ONE]}, "invalid_request", "must be a model"),
        ("infer/wide/a b", {"id": "m", "inputs": [ONE]}, "invalid_request", "the sender's topic level"),
    ],
)
def test_the_wrong_model_or_the_wrong_topic_for_it_is_refused(
    tensor_node: Node, topic: str, body: dict[str, Any], code: str, says: str
) -> None:
    with tensor_node.client(tensor_node.topic("errors"), tensor_node.topic("results", "#")) as client:
        client.publish(tensor_node.topic(topic), body)
        [error] = client.wait(lambda heard: heard)
        assert error.json["error"]["code"] == code
        assert says in error.json["error"]["message"]
    assert "m" not in stored(tensor_node.state)


SHOWN_LATER: dict[str, tuple[dict[str, Any], str, str]] = {
    "another name": ({"inputs": [{**ONE, "name": "z"}]}, "invalid_request", "input 'x' is missing"),
    "another rank": ({"inputs": [{**ONE, "shape": [2]}]}, "invalid_request", "must have the shape"),
    "another output": ({"inputs": [ONE], "outputs": [{"name": "q"}]}, "invalid_request", "no output 'q'"),
    "too late": ({"inputs": [ONE], "parameters": {"timeout": 1}}, "deadline_exceeded", "deadline"),
}


@pytest.mark.parametrize("kind", SHOWN_LATER)
def test_what_only_the_model_can_tell_is_the_result(tensor_node: Node, kind: str) -> None:
    body, code, says = SHOWN_LATER[kind]
    id = kind.replace(" ", "-")
    with tensor_node.client(tensor_node.topic("results", "#")) as client:
        client.publish(tensor_node.topic("infer", "wide", "ann"), {"id": id, **body})
        [error] = client.on(tensor_node.topic("results", "ann", id))
        told = error.json["error"]
        assert (error.json["id"], error.json["sender"], told["code"]) == (id, "ann", code)
        assert says in told["message"]
    assert stored(tensor_node.state)[id] == error.payload
