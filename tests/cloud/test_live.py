"""Settings come into force while the agent runs: nobody who asks notices, and nothing accepted is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.in_force import RESTART, SETTABLE, TAKERS
from tests.mqtt.broker import Client, Mosquitto, chat
from tests.support.agent import NO_TLS, Agent
from tests.support.controller import Controller
from tests.support.gguf_file import write_gguf
from tests.support.load import load
from tests.support.trials import live, pull
from tests.support.waiting import until

NAME = "lively"


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")


@pytest.fixture(scope="module")
def one_node(controller: Controller, start_told_node: Callable[..., Agent]) -> Agent:
    return start_told_node(controller, NAME, ECHO_STEP_SECONDS="0.001")


@pytest.fixture
def node(controller: Controller, one_node: Agent) -> Iterator[Agent]:
    """One that is told nothing, before and after; it is never restarted."""
    process = one_node.pid, one_node.status()["uptime_s"]
    yield one_node
    [layer] = [one for one in layers(controller) if one["selector"] == f"node:{NAME}"] or [{"settings": {}}]
    told(controller, **dict.fromkeys(layer["settings"]))
    assert one_node.pid == process[0]
    assert one_node.status()["uptime_s"] > process[1]


def layers(controller: Controller) -> list[dict[str, Any]]:
    with controller.client() as client:
        found: list[dict[str, Any]] = client.get("/api/v1/config").json()
    return found


def told(controller: Controller, **settings: Any) -> dict[str, Any]:
    """The node's items, once it has in force, or has taken back, what it is told."""
    answer = controller.configure(f"node:{NAME}", **settings)
    assert answer.status_code == 200, answer.text
    items: dict[str, Any] = controller.until_observed(NAME)["reported"]["items"]
    return items


def applied(*names: str) -> dict[str, Any]:
    return {name: {"state": "applied", "reason": ""} for name in names}


def test_limits_are_in_force_for_the_next_request(controller: Controller, node: Agent) -> None:
    worker = node.worker_pid
    items = told(controller, max_tokens=5, anonymous_limit={"requests_per_minute": 2}, drain_s=7)
    assert items == applied("max_tokens", "anonymous_limit", "drain_s")
    assert node.chat("too long", max_tokens=6).status_code == 400
    assert [node.chat("one of three").status_code for _ in range(3)] == [200, 200, 429]
    told(controller, anonymous_limit=None, max_tokens=None, drain_s=None)
    assert node.chat("as before", max_tokens=6).status_code == 200
    assert node.worker_pid == worker


def test_a_models_own_limits_are_in_force_for_its_next_request(controller: Controller, node: Agent) -> None:
    two = {"prompt": ["one", "two"], "max_tokens": 3}
    for most, status in ((1, 400), (8, 200)):
        assert told(controller, models={"echo": {"queue_requests": most}}) == applied("models.echo")
        assert httpx.post(f"{node.base_url}/v1/completions", json=two, verify=NO_TLS).status_code == status


def test_the_log_level_changes(controller: Controller, node: Agent) -> None:
    told(controller, log_level="error")
    before = len(node.log)
    assert node.chat("unheard").status_code == 200
    assert len(node.log) == before
    told(controller, log_level="info")
    assert node.chat("heard").status_code == 200
    until(lambda: "http request" in node.log[before:])


def test_other_batches_and_contexts_take_other_workers_and_no_client_notices(
    controller: Controller, node: Agent
) -> None:
    for settings in ({"max_batch_size": 3, "context": 512}, {"models": {"echo": {"max_batch_size": 2}}}):
        worker = node.worker_pid
        with load(node) as seen:
            items = told(controller, **settings)
            assert node.worker_pid != worker  # `applied` is said when it serves
        assert {item["state"] for item in items.values()} == {"applied"}
        assert set(seen) == {"200"}
    [row] = live(node).values()
    assert (row["slots"], row["context"]) == (2, 512)


def test_more_workers_come_and_go(controller: Controller, node: Agent) -> None:
    with load(node) as seen:
        told(controller, models={"echo": {"instances": 2}})
        assert len([row for row in node.status()["models"] if row["worker"]["state"] == "ready"]) == 2
        told(controller, models={"echo": None})
    assert set(seen) == {"200"}
    assert len(node.status()["models"]) == 1


def test_another_default_model_takes_over_and_no_client_notices(
    controller: Controller, node: Agent, tmp_path: Path
) -> None:
    node.pull(write_gguf(tmp_path / "other.gguf", salt=5), "other")
    with load(node) as seen:
        items = told(controller, model="other", keep_alive=0)
        assert items == applied("model", "keep_alive")
        assert node.chat("whose turn?").json()["model"] == "other"
        until(lambda: not is_loaded(node, "echo"))  # the former default is one like others now
    assert set(seen) == {"200"}


def test_a_pinned_model_is_loaded_and_one_that_is_not_kept_alive_goes(
    controller: Controller, node: Agent, tmp_path: Path
) -> None:
    node.pull(write_gguf(tmp_path / "second.gguf", salt=6), "second")
    assert not is_loaded(node, "second")
    assert told(controller, models={"second": {"pinned": True}}) == applied("models.second")
    assert is_loaded(node, "second")
    told(controller, models={"second": {"pinned": None, "keep_alive": "100ms"}})
    until(lambda: not is_loaded(node, "second"))


def is_loaded(node: Agent, model: str) -> bool:
    return any(row["worker"]["state"] == "ready" for row in live(node, model).values())


def test_versions_get_their_parts_of_the_traffic(controller: Controller, node: Agent, tmp_path: Path) -> None:
    first = pull(node, write_gguf(tmp_path / "first.gguf", salt=7), "third")
    newest = pull(node, write_gguf(tmp_path / "newest.gguf", salt=8), "third")
    node.chat("load it", model="third")
    for weight in (20, 60):
        with load(node, model="third") as seen:
            assert told(controller, models={"third": {"weights": {first: weight}}}) == applied("models.third")
        assert set(seen) == {"200"}
        parts = {version: (row["role"], row["weight"]) for version, row in live(node, "third").items()}
        assert parts == {newest: ("stable", 100 - weight), first: ("canary", weight)}
    told(controller, models={"third": None})
    assert list(live(node, "third")) == [newest]


def test_another_broker_takes_over_and_what_was_accepted_is_answered_there(
    controller: Controller, node: Agent, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    brokers = Mosquitto(tmp_path / "one").start(), Mosquitto(tmp_path / "two").start()
    topic = f"autoglm/v1/{node.status()['node']}"
    results = f"{topic}/results/#"
    try:
        told(controller, mqtt_url=brokers[0].url)
        node.connected()
        with Client(brokers[0].port) as client, Client(brokers[1].port, results) as there:
            with load(node) as seen:
                for at in range(20):
                    client.publish(f"{topic}/prompts", chat(f"p-{at}", f"<slow 0.02>text {at}", acks=True))
                until(lambda: node.metric("mqtt_messages_total") >= 20)
                assert told(controller, mqtt_url=brokers[1].url) == applied("mqtt_url")
                node.connected()
            heard = there.wait(lambda heard: len({one.json["id"] for one in heard}) >= 1 and heard)
            assert heard
            assert set(seen) == {"200"}
    finally:
        told(controller, mqtt_url=None)
        for broker in brokers:
            broker.stop()
    until(lambda: "mqtt" not in node.status()["doors"])


def test_what_takes_another_process_waits_for_a_quiet_moment(
    controller: Controller, start_node: Callable[..., Agent]
) -> None:
    node = start_node(controller, "patient")
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(node.chat("<slow 3>").status_code))
    running.start()
    until(lambda: node.status()["running"] == 1)
    controller.configure("node:patient", max_body_bytes=2048, priority=3)
    waits = {"max_body_bytes": {"state": "needs_restart", "reason": ""}, **applied("priority")}
    controller.until("patient", items=waits)
    assert node.chat("it goes on meanwhile").status_code == 200
    running.join(60)
    assert answers == [200]
    controller.until_observed("patient")
    controller.until("patient", items=applied("max_body_bytes", "priority"))
    node.wait("/readyz")
    assert node.chat("x" * 3000).status_code == 413


def test_every_setting_of_the_cloud_is_taken_by_somebody() -> None:
    taken = [name for taker in TAKERS for name in taker.names] + list(RESTART)
    assert sorted(taken) == sorted(SETTABLE)


async def test_what_a_newer_controller_knows_more_is_told_and_the_rest_is_in_force(
    controller: Controller, node: Agent
) -> None:
    told(controller, priority=4)
    newer = {"priority": 6, "warp": 9, "models": {"echo": {"priority": 2, "warp": 9}}}
    await controller.execute(
        f"UPDATE nodes SET desired = '{json.dumps(newer)}', generation = generation + 1 WHERE name = '{NAME}'"
    )
    unknown = {"state": "failed", "reason": "unknown to this release"}
    expected = {**applied("priority", "models.echo"), "warp": unknown, "models.echo.warp": unknown}
    controller.until(NAME, items=expected)
    assert node.status()["settings"]["priority"] == 6
    controller.until_observed(NAME)
