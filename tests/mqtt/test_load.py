"""More prompts than the node takes at once: they wait in the inbox, in order, and nobody starves."""

from __future__ import annotations

from collections.abc import Callable

from tests.mqtt.broker import Heard, Mosquitto, chat
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
