"""What bad input gets: an error at its address or on `errors`, an ack, a count; nothing else is disturbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.doors.mqtt.topics import Topics, check_response_topic
from agent.errors import BadRequest
from tests.mqtt.broker import Mosquitto, chat
from tests.mqtt.conftest import Node

BAD_BODIES: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "not JSON": (b'{"id": "bad", "messages"', "invalid_request"),
    "not UTF-8": (b'{"id": "\xff"}', "invalid_request"),
    "nothing": (b"", "invalid_request"),
    "an array": (b"[1, 2]", "invalid_request"),
    "nested too deep": (b'{"id": "bad", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_request"),
    "no id": ({"messages": [{"role": "user", "content": "hi"}]}, "invalid_request"),
    "an id that is a number": ({"id": 7, "prompt": "x"}, "invalid_request"),
    "an id with a slash": ({"id": "a/b", "prompt": "x"}, "invalid_request"),
    "half a surrogate pair as a key twice": (b'{"id": "bad", "\\ud800": 1, "\\ud800": 2}', "invalid_request"),
    "an id of 129 characters": ({"id": "i" * 129, "prompt": "x"}, "invalid_request"),
}
BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({}, "invalid_request"),
    "an empty prompt": ({"messages": []}, "invalid_request"),
    "a wrong type": ({"messages": "hello"}, "invalid_request"),
    "an unknown model": ({"model": "gpt-5", "prompt": "x"}, "model_not_found"),
    "absurd max_tokens": ({"prompt": "x", "max_tokens": 10**12}, "invalid_request"),
    "10,000 stop strings": ({"prompt": "x", "stop": ["s"] * 10_000}, "invalid_request"),
    "a raw grammar": ({"prompt": "x", "grammar": "root ::= " + "(" * 60_000}, "invalid_request"),
    "acks that is no boolean": ({"prompt": "x", "acks": "yes"}, "invalid_request"),
    "a prompt longer than the context": ({"prompt": "x" * 5000}, "context_length_exceeded"),
    "far more than the context": ({"prompt": "x" * 500_000}, "context_length_exceeded"),
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_body_without_an_id_gets_its_error_on_errors(node5: Node, kind: str) -> None:
    body, code = BAD_BODIES[kind]
    with node5.client(node5.topic("errors")) as client:
        client.publish(node5.topic("prompts"), body)
        [error] = client.on(node5.topic("errors"))
        assert error.json["error"]["code"] == code
        assert error.json["error"]["message"]


@pytest.mark.parametrize("kind", BAD_PROMPTS)
def test_a_bad_prompt_gets_its_error_where_its_result_would_be(node5: Node, kind: str) -> None:
    body, code = BAD_PROMPTS[kind]
    id = kind.translate(str.maketrans(" ,", "-_"))
    with node5.client(node5.topic("results", "#"), "my/#") as client:
        client.publish(node5.topic("prompts"), {"id": id, **body})
        [error] = client.on(node5.topic("results", id))
        assert (error.json["id"], error.json["error"]["code"]) == (id, code)
        client.publish(node5.topic("prompts", "ann"), {"id": id, **body}, reply="my/topic", correlation=b"c")
        [error] = client.on("my/topic")
        assert (error.json["id"], error.json["error"]["code"], error.correlation) == (id, code, b"c")


def test_a_bad_body_under_a_known_id_does_not_reach_the_first_prompts_receiver(node5: Node) -> None:
    with node5.client(node5.topic("results", "#"), node5.topic("errors")) as client:
        client.publish(node5.topic("prompts"), chat("known", "hello"))
        client.on(node5.topic("results", "known"))
        client.publish(node5.topic("prompts"), {"id": "known", "messages": 5})
        [error] = client.on(node5.topic("errors"))
        assert error.json["id"] == "known"
        assert len(client.on(node5.topic("results", "known"))) == 1


@pytest.mark.parametrize(
    "topic",
    [
        "$SYS/x",
        "$share/group/x",
        "autoglm/v1/five/prompts",
        "autoglm/v1/other/prompts/ann",
        "autoglm/v1/any/infer/model",
        "autoglm/v1/five/infer/model/ann",
        "autoglm/v1/any/acks",
        "autoglm/v1/any/status",
    ],
)
def test_a_bad_response_topic_is_refused_on_errors(node5: Node, topic: str) -> None:
    with node5.client(node5.topic("errors"), "autoglm/v1/+/prompts/#", "autoglm/v1/any/#") as client:
        client.publish(node5.topic("prompts"), chat("bad-reply"), reply=topic)
        [error] = client.on(node5.topic("errors"))
        assert "Response Topic" in error.json["error"]["message"]
        assert [one.topic for one in client.heard if "error" in one.json] == [node5.topic("errors")]


@pytest.mark.parametrize("topic", ["a/+/b", "a/#", "#", "+"])
def test_a_response_topic_with_a_wildcard_is_refused(topic: str) -> None:
    """mosquitto refuses the publisher itself, so that this is asked of the check alone."""
    with pytest.raises(BadRequest):
        check_response_topic(topic)


@pytest.mark.parametrize("topic", ["my/answers", "autoglm/v1/n/results/a", "autoglm", "autoglm/v1/x", "a/$b"])
def test_any_other_response_topic_is_allowed(topic: str) -> None:
    check_response_topic(topic)


@pytest.mark.parametrize("sender", ["a b", "a:b", "ü", "s" * 129])
def test_a_sender_that_is_no_name_is_refused(node5: Node, sender: str) -> None:
    with pytest.raises(BadRequest):
        Topics("five").read(f"autoglm/v1/five/prompts/{sender}")
    with node5.client(node5.topic("errors")) as client:
        client.publish(node5.topic("prompts", sender), chat("bad-sender"))
        assert "sender" in client.on(node5.topic("errors"))[0].json["error"]["message"]


@pytest.mark.parametrize("acks", [b"a b", b'["a", 7]', b'["a"', b"[" * 100_000, b"\xff", b"", b'["a/b"]'])
def test_acks_that_are_no_ids_get_an_error(node5: Node, acks: bytes) -> None:
    with node5.client(node5.topic("errors")) as client:
        client.publish(node5.topic("acks"), acks)
        assert client.on(node5.topic("errors"))[0].json["error"]["code"] == "invalid_request"


def test_a_message_over_the_bound_gets_an_error(start_node: Callable[..., Node], broker: Mosquitto) -> None:
    node = start_node(broker, "small", AUTOGLM_MAX_BODY_BYTES="4096")
    with node.client(node.topic("errors"), node.topic("results", "#"), "my/#") as client:
        client.publish(node.topic("prompts"), {"id": "large", "prompt": "x" * 5000})
        assert client.on(node.topic("errors"))[0].json["error"]["code"] == "request_too_large"
        client.publish(node.topic("prompts"), {"id": "large", "prompt": "x" * 5000}, reply="my/topic")
        assert client.on("my/topic")[0].json["error"]["code"] == "request_too_large"
        client.publish(node.topic("prompts"), {"id": "huge", "prompt": "x" * 50_000})  # the broker drops it
        client.publish(node.topic("prompts"), chat("after", "still here"))
        client.on(node.topic("results", "after"))


def test_a_message_that_breaks_its_reader_is_refused_and_acked(
    start_node: Callable[..., Node], broker: Mosquitto
) -> None:
    """Half a surrogate pair fits no UTF-8: left unacked, it would come again at every start."""
    node = start_node(broker, "halves")
    halves = b'{"id": "bad", "prompt": "x", "\\ud800": 1, "\\ud800": 2}'
    with node.client(node.topic("errors"), node.topic("results", "#")) as client:
        for topic in (node.topic("prompts"), node.topic("prompts", "ann")):
            client.publish(topic, halves)
        refused = client.on(node.topic("errors"), 2)
        assert [one.json["error"]["param"] for one in refused] == ["\\ud800"] * 2
        client.publish(node.topic("prompts"), chat("after", "still here"))
        client.on(node.topic("results", "after"))


def test_refusals_are_counted(node5: Node) -> None:
    with node5.client(node5.topic("errors")) as client:
        before = node5.agent.metric('mqtt_messages_total{kind="refused"}')
        client.publish(node5.topic("prompts"), b"{")
        client.on(node5.topic("errors"))
        assert node5.agent.metric('mqtt_messages_total{kind="refused"}') == before + 1
