"""What makes a node unwell, or cuts it off, it takes back itself; the network alone takes nothing back."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cloud_sync import twin_file
from cloud_sync.twin import Twin
from tests.mqtt.broker import Mosquitto
from tests.support.agent import Agent, free_port
from tests.support.controller import Controller
from tests.support.gguf_file import write_gguf
from tests.support.load import load
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

NAME = "unlucky"
APPLIED = {"state": "applied", "reason": ""}
BROKEN = 13  # a model with this salt does not load


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")


@pytest.fixture(scope="module")
def one_node(controller: Controller, start_told_node: Callable[..., Agent]) -> Agent:
    return start_told_node(controller, NAME, AUTOGLM_TRIAL_S="4", ECHO_STEP_SECONDS="0.001")


@pytest.fixture
def node(controller: Controller, one_node: Agent) -> Iterator[Agent]:
    """One that has taken what it is told for good, before and after."""
    yield one_node
    with controller.client() as client:
        for layer in client.get("/api/v1/config").json():
            if layer["selector"] == f"node:{NAME}":
                controller.configure(f"node:{NAME}", **dict.fromkeys(layer["settings"]))
    until(lambda: controller.nodes()[NAME]["generation"] == twin(one_node).observed)
    until(lambda: twin(one_node).trial is None)


def twin(node: Agent) -> Twin:
    return twin_file.read(node.data_dir / "cloud")


def told(controller: Controller, **settings: Any) -> dict[str, Any]:
    """The node's items, once it has in force, or has taken back, what it is told."""
    answer = controller.configure(f"node:{NAME}", **settings)
    assert answer.status_code == 200, answer.text
    items: dict[str, Any] = controller.until_observed(NAME)["reported"]["items"]
    return items


def state(controller: Controller, name: str) -> str | None:
    """What the node says has become of a setting; None: nothing."""
    items: dict[str, Any] = controller.nodes()[NAME]["reported"]["items"]
    return items.get(name, {}).get("state")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "/no/such.gguf"}, "there is no file"),
        ({"model": "broken"}, "does not load"),
        ({"context": 2_000_000_000}, "needs about"),
        ({"max_batch_size": 256, "context": 100_000_000}, "needs about"),
    ],
)
def test_what_cannot_be_loaded_is_taken_back_and_the_former_serves_on(
    controller: Controller, node: Agent, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    if settings.get("model") == "broken":
        node.pull(write_gguf(tmp_path / "broken.gguf", salt=BROKEN), "broken")
    worker = node.worker_pid
    with load(node) as seen:
        items = told(controller, **settings)
    assert {items[name]["state"] for name in settings} == {"rolled_back"}
    assert says in items[next(iter(settings))]["reason"]
    assert set(seen) == {"200"}
    assert node.worker_pid == worker
    assert twin(node).trial is None


def test_a_batch_too_large_for_the_memory_is_taken_back_by_the_real_engine(
    controller: Controller, start_told_node: Callable[..., Agent], model_path: Path
) -> None:
    node = start_told_node(
        controller,
        "real",
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(model_path),
        AUTOGLM_KV_TYPE="q8_0",
        AUTOGLM_THREADS="1",
    )
    [before] = node.status()["models"]
    controller.configure("node:real", max_batch_size=256, context=2_000_000)
    row = controller.until_observed("real")
    items = row["reported"]["items"]
    assert {item["state"] for item in items.values()} == {"rolled_back"}
    assert "needs about" in items["context"]["reason"]
    assert node.chat("still there", max_tokens=4).status_code == 200
    [after] = node.status()["models"]
    assert after["worker"]["pid"] == before["worker"]["pid"]
    node.stop()


@pytest.mark.parametrize(
    "settings", [{"cloud_url": "https://127.0.0.1:1"}, {"cloud_proxy": "http://127.0.0.1:1"}]
)
def test_what_cuts_the_node_off_is_taken_back_without_network(
    controller: Controller, node: Agent, settings: dict[str, Any]
) -> None:
    with load(node) as seen:
        items = told(controller, **settings, priority=7)
    back = {"state": "rolled_back", "reason": "the controller could not be reached with it"}
    assert items == dict.fromkeys((*settings, "priority"), back)
    assert node.status()["settings"]["priority"] == 5
    assert set(seen) == {"200"}


def test_a_model_that_cannot_be_fetched_yet_is_pending_and_nothing_is_taken_back(
    controller: Controller, node: Agent, tmp_path: Path
) -> None:
    port = free_port()
    controller.configure(f"node:{NAME}", model=f"http://127.0.0.1:{port}/late.gguf", priority=2)
    until(lambda: state(controller, "model") == "pending")
    assert node.chat("the former one").json()["model"] == "echo"
    assert controller.nodes()[NAME]["reported"]["items"]["priority"] == APPLIED
    write_gguf(tmp_path / "late.gguf", salt=9)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        items = controller.until_observed(NAME)["reported"]["items"]
        site.shutdown()
    assert items == dict.fromkeys(("model", "priority"), APPLIED)
    assert node.chat("the new one").json()["model"] == "late"


def test_another_way_to_the_controller_is_kept_where_it_leads_there(
    controller: Controller, node: Agent
) -> None:
    proxy = TcpProxy(controller.port)
    try:
        url = f"https://127.0.0.1:{proxy.port}"
        assert told(controller, cloud_url=url) == {"cloud_url": APPLIED}
        until(lambda: twin(node).trial is None)
        assert node.status()["cloud"]["url"] == url
        assert told(controller, cloud_url=None) == {}
    finally:
        proxy.stop()


def test_a_broker_that_is_not_there_is_taken_back_where_the_former_one_was(
    controller: Controller, node: Agent, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path).start()
    try:
        told(controller, mqtt_url=broker.url)
        node.connected()
        until(lambda: twin(node).trial is None)
        controller.configure(f"node:{NAME}", mqtt_url="mqtt://127.0.0.1:1")
        until(lambda: state(controller, "mqtt_url") == "rolled_back")
        assert "127.0.0.1:1" in controller.nodes()[NAME]["reported"]["items"]["mqtt_url"]["reason"]
        node.connected()
        assert node.status()["settings"]["mqtt_url"] == broker.url
    finally:
        broker.stop()


def test_losing_the_network_takes_nothing_back(controller: Controller, node: Agent) -> None:
    told(controller, priority=3)
    until(lambda: twin(node).trial is None)
    controller.configure(f"node:{NAME}", priority=8, max_batch_size=4)
    until(lambda: twin(node).settings.get("priority") == 8)
    controller.kill()
    try:
        until(lambda: twin(node).trial is None)
        assert twin(node).settings == {"priority": 8, "max_batch_size": 4}
        assert node.status()["settings"]["priority"] == 8
    finally:
        controller.start()
    items = controller.until_observed(NAME)["reported"]["items"]
    assert items == {"priority": APPLIED, "max_batch_size": APPLIED}


def test_a_trial_survives_kills_and_is_over_at_the_third_start(controller: Controller, node: Agent) -> None:
    told(controller, priority=3)
    until(lambda: twin(node).trial is None)
    controller.configure(f"node:{NAME}", priority=9, trial_s=600, cloud_url="https://127.0.0.1:1")
    until(lambda: twin(node).trial is not None)
    for attempt in (1, 2):
        node.kill()
        node.start()
        trial = twin(node).trial
        assert trial is not None
        assert trial.attempts == attempt
        assert node.status()["settings"]["priority"] == 9
    node.kill()
    node.start()
    assert node.status()["settings"]["priority"] == 3
    items = controller.until_observed(NAME)["reported"]["items"]
    assert {item["state"] for item in items.values()} == {"rolled_back"}
    assert "started 2 times" in items["cloud_url"]["reason"]
    node.kill()
    node.start()
    assert node.status()["settings"]["priority"] == 3


def test_settings_with_which_the_agent_cannot_start_are_taken_back(
    controller: Controller, node: Agent
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        controller.configure(f"node:{NAME}", http_port=taken.getsockname()[1])
        assert node.process is not None
        for _ in range(2):  # it started itself again once, and then whoever keeps it up does
            node.process.wait(60)
            assert "cannot serve" in node.log.splitlines()[-1]
            before = twin(node).trial
            assert before is not None
            node.begin()
        node.wait("/readyz")
    items = controller.until_observed(NAME)["reported"]["items"]
    assert items["http_port"]["state"] == "rolled_back"
    assert json.dumps(items).count("started 2 times") == 1
