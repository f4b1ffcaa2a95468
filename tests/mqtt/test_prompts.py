"""A prompt by MQTT and what comes back, through a real mosquitto."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.mqtt.broker import Heard, chat
from tests.mqtt.conftest import Node


def answer(heard: Heard) -> str:
    text: str = heard.json["choices"][0]["message"]["content"]
    return text


def test_a_prompt_is_answered_on_results(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts"), chat("p-1", "What is an edge?"))
        [result] = client.on(node.topic("results", "p-1"))
        assert result.json["id"] == "p-1"
        assert result.json["object"] == "chat.completion"
        assert answer(result) == "What is an edge?"
        assert not result.retain


def test_a_senders_results_have_its_level(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts", "ann"), chat("s-1", "from ann"))
        client.publish(node.topic("prompts", "bob"), chat("s-1", "from bob"))
        assert answer(client.on(node.topic("results", "ann", "s-1"))[0]) == "from ann"
        assert answer(client.on(node.topic("results", "bob", "s-1"))[0]) == "from bob"


def test_the_response_topic_and_the_correlation_data_are_honoured(node5: Node) -> None:
    with node5.client("my/answers") as client:
        body = chat("r-1", "to my topic")
        client.publish(node5.topic("prompts"), body, reply="my/answers", correlation=b"\x00\xff")
        [result] = client.on("my/answers")
        assert (answer(result), result.correlation) == ("to my topic", b"\x00\xff")


def test_a_completion_prompt_is_answered_as_one(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts"), {"id": "c-1", "prompt": "Once", "max_tokens": 3})
        [result] = client.on(node.topic("results", "c-1"))
        assert result.json["object"] == "text_completion"
        assert result.json["choices"][0]["text"] == "Onc"
        assert result.json["choices"][0]["finish_reason"] == "length"


def test_mosquittos_own_clients_work(node: Node) -> None:
    at = ["-h", "127.0.0.1", "-p", str(node.broker.port)]
    topic = node.topic("results", "m-1")
    with subprocess.Popen(["mosquitto_sub", *at, "-t", topic, "-C", "1"], stdout=subprocess.PIPE) as sub:
        with node.client() as client:  # the subscription may come late: a repeat is answered again
            while sub.poll() is None:
                client.publish(node.topic("prompts"), chat("m-1", "hello mosquitto"))
                try:
                    sub.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        assert sub.stdout is not None
        assert b"hello mosquitto" in sub.stdout.read()


def test_tokens_come_numbered_and_make_up_the_answer(node: Node) -> None:
    with node.client(node.topic("tokens", "#"), node.topic("results", "#")) as client:
        text = "streamed, with ünïcödé"
        client.publish(node.topic("prompts", "ann"), chat("t-1", f"<slow 0.03>{text}", stream=True))
        [result] = client.on(node.topic("results", "ann", "t-1"))
        tokens = [one.json for one in client.heard if one.topic == node.topic("tokens", "ann", "t-1")]
        assert [one["seq"] for one in tokens] == list(range(len(tokens)))
        assert {(one["id"], one["attempt"], one["index"]) for one in tokens} == {("t-1", 1, 0)}
        assert "".join(one["text"] for one in tokens) == answer(result) == text
        assert [one["finish_reason"] for one in tokens] == [None] * (len(tokens) - 1) + ["stop"]
        assert 2 < len(tokens) < len(text.encode())  # gathered, but not all at once


def test_a_prompt_published_twice_gets_the_same_bytes(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        for count in (1, 2, 3):
            client.publish(node.topic("prompts"), chat("twice", "once and for all"))
            results = client.on(node.topic("results", "twice"), count)
        assert len({result.payload for result in results}) == 1


def test_a_repeat_is_answered_where_it_asks(node5: Node) -> None:
    with node5.client(node5.topic("results", "#"), "my/#") as client:
        body = chat("again", "same")
        client.publish(node5.topic("prompts"), body)
        [first] = client.on(node5.topic("results", "again"))
        client.publish(node5.topic("prompts"), body, reply="my/copy", correlation=b"2")
        [second] = client.on("my/copy")
        assert (second.payload, second.correlation) == (first.payload, b"2")


def test_another_body_under_the_same_id_is_an_error_that_leaves_the_first_alone(node: Node) -> None:
    with node.client(node.topic("results", "#"), node.topic("errors")) as client:
        client.publish(node.topic("prompts"), chat("conflict", "<slow 0.05>the first"))
        client.publish(node.topic("prompts"), chat("conflict", "the second"))
        [error] = client.on(node.topic("errors"))
        assert (error.json["id"], error.json["error"]["code"]) == ("conflict", "conflict")
        [result] = client.on(node.topic("results", "conflict"))
        assert answer(result) == "the first"


def test_a_result_is_published_again_until_its_receiver_acks_it(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts", "ann"), chat("careful", "hello", acks=True))
        first = client.on(node.topic("results", "ann", "careful"))
        node.agent.restart()
        results = client.on(node.topic("results", "ann", "careful"), 2)
        assert {result.payload for result in results} == {first[0].payload}
        client.publish(node.topic("acks", "ann"), b'["careful"]')
        client.publish(node.topic("prompts", "ann"), chat("after", "hello"))  # read after the ack
        client.on(node.topic("results", "ann", "after"))
        heard = len(client.on(node.topic("results", "ann", "careful"), 2))
        node.agent.restart()
        client.publish(node.topic("prompts", "ann"), chat("later", "hello"))
        client.on(node.topic("results", "ann", "later"))
        assert len(client.on(node.topic("results", "ann", "careful"), 2)) == heard


def test_prompts_that_came_while_the_node_was_away_are_answered(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        node.agent.stop()
        for number in range(20):
            client.publish(node.topic("prompts"), chat(f"away-{number}", "are you there?"))
        node.agent.start()
        for number in range(20):
            assert len(client.on(node.topic("results", f"away-{number}"))) == 1


def test_the_status_is_retained_and_the_last_will_says_offline(node: Node) -> None:
    def told(state: str) -> bool:
        with node.client(node.topic("status")) as client:
            [heard] = client.on(node.topic("status"))
            assert heard.retain
            assert heard.json["node"] == node.name
            assert heard.json["models"] == ["echo"]
            return bool(heard.json["state"] == state)

    assert told("online")
    with node.client(node.topic("status")) as client:
        node.agent.kill()
        client.wait(lambda heard: heard[-1].json["state"] == "offline" if heard else None)
    assert told("offline")
    node.agent.restart()
    with node.client(node.topic("status")) as client:
        client.wait(lambda heard: heard[-1].json["ready"] if heard else None)
    node.agent.stop()
    assert told("offline")
    node.agent.start()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_clients_of_both_versions_are_served_by_either(node: Node, version: str) -> None:
    with node.client(node.topic("results", "#"), version=version) as client:
        client.publish(node.topic("prompts"), chat(f"v-{version}", "any version"))
        assert answer(client.on(node.topic("results", f"v-{version}"))[0]) == "any version"


def test_a_prompt_at_qos_0_is_answered_too(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts"), chat("qos-0", "no promise"), qos=0)
        assert answer(client.on(node.topic("results", "qos-0"))[0]) == "no promise"


def test_the_timeout_counts_from_the_arrival(node: Node) -> None:
    with node.client(node.topic("results", "#")) as client:
        client.publish(node.topic("prompts"), chat("late", "<slow 0.2>far too slow", timeout=0.3))
        [result] = client.on(node.topic("results", "late"))
        assert json.loads(result.payload)["error"]["code"] == "deadline_exceeded"
