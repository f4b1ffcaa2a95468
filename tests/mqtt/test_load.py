"""More prompts than the node takes at once: they wait in the inbox, in order, and nobody starves."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mqtt.broker import ONE, Heard, Mosquitto, chat
from tests.mqtt.conftest import Node


def ids(heard: list[Heard], sender: str) -> list[str]:
    return [one.json["id"] for one in heard if f"/results/{sender}/" in one.topic]


def test_hundreds_of_prompts_pass_a_queue_of_four(start_node: Callable[..., Node], broker: Mosquitto) -> None:
    node = start_node(broker, "narrow", AUTOGLM_QUEUE_REQUESTS="4", AUTOGLM_MAX_BATCH_SIZE="4")
    wanted = [f"n-{number}" for number in range(400)]
    with node.client(node.topic("results", "#")) as client:
        for id in wanted:
            client.publish(node.topic("prompts", "flood"), chat(id, "hi"), wait=False)
        client.wait(lambda heard: len(heard) >= 400, 90)
        found = ids(client.heard, "flood")
        assert sorted(found) == sorted(wanted)
        # What waits is taken in the order of arrival; what runs at once may pass each other.
        assert all(abs(place - wanted.index(id)) < 32 for place, id in enumerate(found))
        assert not any("error" in one.json for one in client.heard)


def test_a_senders_limit_holds_its_own_prompts_and_nobody_elses(
    start_node: Callable[..., Node], broker: Mosquitto
) -> None:
    node = start_node(broker, "limited", AUTOGLM_MQTT_SENDER_LIMIT='{"requests_per_minute": 30}')
    with node.client(node.topic("results", "#")) as client:
        for number in range(33):
            client.publish(node.topic("prompts", "ann"), chat(f"a-{number}", "hi"))
        client.publish(node.topic("prompts", "bob"), chat("b-0", "hi"))
        client.on(node.topic("results", "bob", "b-0"))
        assert len(ids(client.heard, "ann")) < 33
        client.wait(lambda heard: len(ids(heard, "ann")) == 33)
        assert ids(client.heard, "ann")[-3:] == ["a-30", "a-31", "a-32"]
        assert not any("error" in one.json for one in client.heard)


def test_tensors_pass_prompts_that_a_full_queue_holds(
    start_node: Callable[..., Node], broker: Mosquitto, wide: Path
) -> None:
    # Two places: the prompt may get one when an answer ends, and must not have the node's last.
    node = start_node(broker, "full-of-text", AUTOGLM_QUEUE_REQUESTS="2", AUTOGLM_MAX_BATCH_SIZE="1")
    node.agent.pull(wide, "wide")
    with ThreadPoolExecutor(20) as pool, node.client(node.topic("results", "#")) as client:
        for _ in range(20):
            pool.submit(node.agent.chat, "<slow 0.1>" + "x" * 100)
        while not node.agent.metric("request_refused_total"):
            time.sleep(0.05)
        client.publish(node.topic("prompts"), chat("held"))
        client.publish(node.topic("infer", "wide"), {"id": "passes", "inputs": [ONE]})
        client.on(node.topic("results", "passes"))
        assert [one.json["id"] for one in client.heard] == ["passes"]
        node.agent.kill()  # whoever waits hears of it
