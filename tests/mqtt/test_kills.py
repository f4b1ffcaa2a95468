"""Agent, Worker and broker are killed under load; each accepted prompt keeps one distinct result.

How it is judged: a prompt is "acked" when its row is in the inbox, because the row is committed before the
PUBACK is sent; the inbox is read from the database of each killed agent. Each of those, and each that the
broker took from the publisher, must end with exactly one distinct payload at its receiver, the stored one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.mqtt.broker import Client, Heard, Mosquitto, chat
from tests.mqtt.conftest import Node
from tests.support.agent import Agent
from tests.support.disk import fill


def stored(state: Path, folder: Path | None = None) -> dict[str, bytes | None]:
    """Each accepted id and its result, from a copy (in `folder`) of the database as it is on the disk."""
    copy = (folder or state.parent) / f"copy-{time.monotonic_ns()}"
    for suffix in ("", "-wal"):
        if (part := state.with_name(state.name + suffix)).exists():
            shutil.copy(part, copy.with_name(copy.name + suffix))
    db = sqlite3.connect(copy)
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(db.execute("SELECT id, payload FROM inbox LEFT JOIN results ON seq = inbox_seq"))
    finally:
        db.close()


def payloads(heard: list[Heard]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = defaultdict(set)
    for one in heard:
        found[one.topic.rpartition("/")[2]].add(one.payload)
    return found


class Load:
    """Publishes prompts one after the other until told to stop."""

    def __init__(self, node: Node, client: Client, prefix: str, pause: float = 0.02) -> None:
        self.ids: list[str] = []
        self._node, self._client, self._prefix, self._pause = node, client, prefix, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        while not self._stop.wait(self._pause):
            id = f"{self._prefix}-{len(self.ids)}"
            self.again(id)
            self.ids.append(id)

    def again(self, id: str) -> None:
        stream = id.endswith("7")
        self._client.publish(
            self._node.topic("prompts"), chat(id, f"answer for {id}", stream=stream), wait=False
        )

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_each_acked_prompt_has_one_distinct_result_however_the_agent_is_killed(
    start_node: Callable[..., Node], broker: Mosquitto, version: str
) -> None:
    node = start_node(broker, f"killed-{version}", version)
    accepted: dict[str, bytes | None] = {}
    moments = random.Random(5)
    with node.client(node.topic("results", "#"), client_id=f"receiver-{version}") as client:
        with Load(node, client, "k") as load:
            for _ in range(5):
                time.sleep(moments.uniform(0.0, 0.7))
                node.agent.kill()
                for id, result in stored(node.state).items():
                    assert accepted.get(id) in (None, result)
                    accepted[id] = result
                node.agent.start(ready=moments.random() < 0.7)
        ids = set(load.ids)
        client.wait(lambda heard: ids <= payloads(heard).keys(), 60)
    found = payloads(client.heard)
    final = stored(node.state)
    assert accepted.keys() <= final.keys() == ids == found.keys()
    assert {id: {final[id]} for id in ids} == found
    assert all(accepted[id] in (None, final[id]) for id in accepted)


def test_each_prompt_has_one_distinct_result_however_the_broker_is_killed(
    start_node: Callable[..., Node], start_broker: Callable[..., Mosquitto]
) -> None:
    """The broker may lose what it has: a publisher sends again what has no answer, as the promise lets it."""
    broker = start_broker()
    node = start_node(broker, "brokerless")
    moments = random.Random(6)
    with node.client(node.topic("results", "#"), client_id="receiver") as client:
        with Load(node, client, "b") as load:
            for _ in range(4):
                time.sleep(moments.uniform(0.2, 0.8))
                broker.kill()
                assert node.agent.chat("while the broker is away").status_code == 200
                broker.start()
        for _ in range(30):
            missing = set(load.ids) - payloads(client.heard).keys()
            for id in missing:
                load.again(id)
            if not missing:
                break
            time.sleep(1)
    found = payloads(client.heard)
    assert found.keys() == set(load.ids)
    final = stored(node.state)
    assert {id: {final[id]} for id in load.ids} == found


def test_a_killed_worker_costs_no_prompt(node5: Node) -> None:
    with node5.client(node5.topic("results", "#"), node5.topic("tokens", "#")) as client:
        for number in range(12):
            text = f"<slow 0.005>answer {number}"
            client.publish(node5.topic("prompts", "w"), chat(f"w-{number}", text, stream=True))
        client.wait(lambda heard: any("/tokens/w/" in one.topic for one in heard))
        for _ in range(2):
            pid = node5.agent.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            client.wait(lambda heard, pid=pid: node5.agent.worker_pid not in (None, pid))
        for number in range(12):
            [result] = client.on(node5.topic("results", "w", f"w-{number}"))
            assert result.json["choices"][0]["message"]["content"] == f"answer {number}"
            tokens = [
                one.json for one in client.heard if one.topic == node5.topic("tokens", "w", f"w-{number}")
            ]
            last = max(one["attempt"] for one in tokens)
            final = [one for one in tokens if one["attempt"] == last]
            assert [one["seq"] for one in final] == list(range(len(final)))
            assert "".join(one["text"] for one in final) == f"answer {number}"


def test_a_prompt_that_kills_workers_gets_an_error_and_its_neighbours_their_results(node5: Node) -> None:
    with node5.client(node5.topic("results", "#")) as client:
        client.publish(node5.topic("prompts"), chat("poison", "<crash>"))
        for number in range(5):
            client.publish(node5.topic("prompts"), chat(f"neighbour-{number}", "fine"))
        [result] = client.on(node5.topic("results", "poison"))
        assert result.json["error"]["code"] == "internal_error"
        for number in range(5):
            [result] = client.on(node5.topic("results", f"neighbour-{number}"))
            assert result.json["choices"][0]["message"]["content"] == "fine"


def test_a_full_disk_is_not_acked_for_and_serving_goes_on(
    start_agent: Callable[..., Agent], broker: Mosquitto, small_disk: Path, tmp_path: Path
) -> None:
    agent = start_agent(
        data_dir=small_disk / "data",
        AUTOGLM_NODE="full",
        AUTOGLM_MQTT_URL=broker.url,
        AUTOGLM_LOG_LEVEL="error",
    ).connected()
    node = Node(agent, broker, "full")
    with node.client(node.topic("results", "#"), node.topic("status")) as client:
        client.publish(node.topic("prompts"), chat("before", "there is room"))
        client.on(node.topic("results", "before"))
        ballast = fill(small_disk)
        for number in range(5):
            client.publish(node.topic("prompts"), chat(f"full-{number}", "no room " * 60_000))
        client.wait(lambda heard: heard[-1].json.get("state") == "offline")
        assert agent.chat("the disk is full").status_code == 200
        assert httpx.get(agent.base_url + "/readyz").status_code == 200
        assert not any(id.startswith("full") for id in stored(node.state, tmp_path))
        ballast.unlink()
        for number in range(5):
            [result] = client.on(node.topic("results", f"full-{number}"))
            assert "error" in result.json  # over the echo model's context: an answer like any other
    agent.stop()


def test_the_real_model_answers_once_through_a_kill(
    start_agent: Callable[..., Agent], broker: Mosquitto, model_path: Path
) -> None:
    agent = start_agent(
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(model_path),
        AUTOGLM_MAX_BATCH_SIZE="4",
        AUTOGLM_CONTEXT="512",
        AUTOGLM_KV_TYPE="f16",  # given, so that the first start has less to try
        AUTOGLM_FLASH_ATTENTION="on",
        AUTOGLM_NODE="real",
        AUTOGLM_MQTT_URL=broker.url,
    ).connected()
    node = Node(agent, broker, "real")
    ids = [f"real-{number}" for number in range(8)]
    with node.client(node.topic("results", "#"), client_id="real-receiver") as client:
        for id in ids:
            client.publish(node.topic("prompts"), chat(id, f"Say something about {id}.", max_tokens=24))
        client.wait(lambda heard: heard)
        agent.kill()
        agent.start()
        client.wait(lambda heard: set(ids) <= payloads(heard).keys(), 60)
    assert all(len(found) == 1 for found in payloads(client.heard).values())
    agent.stop()
