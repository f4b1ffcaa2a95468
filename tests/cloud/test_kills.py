"""Node and controller are killed at random moments under load. What was acked is kept, once, in order.

`make soak` does the same for longer.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from cloud_sync import twin_file
from tests.cloud.history import Actor, History
from tests.mqtt.broker import Client, Mosquitto, chat
from tests.support.agent import Agent
from tests.support.controller import Controller

SOAK_S = 60 * float(os.environ.get("AUTOGLM_SOAK_MINUTES", 0))
NAME = "mortal"
TOPIC = f"autoglm/v1/{NAME}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path).start()
    yield one
    one.stop()


class Load:
    """Everybody who talks to the two; each notes what it was told."""

    def __init__(self, controller: Controller, node: Agent, client: Client, history: History) -> None:
        self._controller, self._node, self._client, self._history = controller, node, client, history

    def operator(self, number: int) -> None:
        """One, who asks for the next only after the last: n microseconds above 1 s."""
        self._history.add("asked", number)
        try:
            answer = self._controller.configure(f"node:{NAME}", heartbeat_s=1 + number / 1e6)
        except httpx.HTTPError:
            return  # it may have been done
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            self._history.add("acked", number)

    def watcher(self, _: int) -> None:
        try:
            row = self._controller.nodes()[NAME]
        except httpx.HTTPError:
            return
        self._history.add("row", row)

    def caller(self, number: int) -> None:
        try:
            answer = self._node.chat(f"question {number}")
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            told = answer.json()["choices"][0]["message"]["content"]
            assert told == f"question {number}"
            self._history.add("answered", number)

    def publisher(self, number: int) -> None:
        id = f"prompt-{number}"
        self._client.publish(f"{TOPIC}/prompts", chat(id, f"answer for {id}"), wait=False)
        self._history.add("published", id)


def _kill_one(controller: Controller, node: Agent, moments: random.Random, history: History) -> None:
    if moments.random() < 0.5:
        controller.kill()
        history.add("killed", "controller")
        time.sleep(moments.uniform(0, 0.5))
        controller.start()
        return
    node.kill()
    history.add("killed", "node")
    history.add("twin", twin_file.read(node.data_dir / "cloud"))
    node.start(ready=moments.random() < 0.7)


@pytest.mark.timeout(SOAK_S + 300)
def test_what_was_acked_is_kept_once_and_in_order_however_node_and_controller_are_killed(
    start_controller: Callable[..., Controller], start_node: Callable[..., Agent], broker: Mosquitto
) -> None:
    history, moments = History(), random.Random(SOAK_S or 4)
    controller = start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")
    node = start_node(controller, NAME, AUTOGLM_NODE=NAME, AUTOGLM_MQTT_URL=broker.url).connected()
    until = time.monotonic() + SOAK_S
    with Client(broker.port, f"{TOPIC}/results/#", client_id="receiver") as client:
        load = Load(controller, node, client, history)
        with ExitStack() as actors:
            for act, pause_s in (
                (load.operator, 0.05), (load.watcher, 0.2), (load.caller, 0.1), (load.publisher, 0.05)
            ):  # fmt: skip
                actors.enter_context(Actor(act, pause_s))
            while len(history.of("killed")) < 4 or time.monotonic() < until:
                time.sleep(moments.uniform(0, 0.7))
                _kill_one(controller, node, moments, history)
        row = controller.until_observed(NAME, seconds=120)
        ids = set(history.of("published"))
        client.wait(lambda heard: ids <= {one.topic.rpartition("/")[2] for one in heard}, 120)
        results = defaultdict(set)
        for one in client.heard:
            results[one.topic.rpartition("/")[2]].add(one.payload)
    _check_documents(history, row, twin_file.read(node.data_dir / "cloud"), _changes(controller))
    assert {id: len(found) for id, found in results.items()} == dict.fromkeys(ids, 1)
    assert history.of("answered")


def _changes(controller: Controller) -> list[int]:
    """What the audit log says was done, in order."""
    found: list[int] = []
    before = 2**62
    with controller.client() as client:
        while rows := client.get("/api/v1/audit", params={"limit": 1000, "before": before}).json():
            before = rows[-1]["id"]
            mine = [row["details"]["changes"] for row in rows if row["target"] == f"node:{NAME}"]
            found += [round((changes["heartbeat_s"] - 1) * 1e6) for changes in mine]
    return found[::-1]


def _check_documents(history: History, row: dict[str, object], last: twin_file.Twin, done: list[int]) -> None:
    asked, acked, rows = history.of("asked"), history.of("acked"), history.of("row")
    assert acked
    assert rows
    assert done == sorted(set(done)), "in the order in which they were asked for, each once"
    assert set(acked) <= set(done) <= set(asked)
    assert row["generation"] == len(done) + 1, "one more for joining"
    for key in ("generation", "observed_generation"):
        told = [one[key] for one in rows]
        assert told == sorted(told), f"{key} never goes back"
    assert {one["state"] for one in rows} <= {"active", "lost"}, "who was killed and is back is no clone"
    kept = [one.newest.generation if one.newest else 0 for one in [*history.of("twin"), last]]
    assert kept == sorted(kept)
    assert kept[-1] == row["generation"]
    assert last.settings == {"heartbeat_s": 1 + done[-1] / 1e6}
