"""Others are told of the fleet's events: each at least once, in order, whoever dies in between."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_sync import identity
from tests.mqtt.broker import Client, Mosquitto
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.receiver import Receiver

TOPICS = "autoglm/v1/fleet/events/#"


@pytest.fixture(scope="module")
def broker(database: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One for each kind of database, as is the receiver: none hears of the other's fleet."""
    one = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def receiver(database: object) -> Iterator[Receiver]:
    one = Receiver().start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def told(
    start_controller: Callable[..., Controller],
    database: Callable[[], dict[str, str]],
    broker: Mosquitto,
) -> Controller:
    return start_controller(
        AUTOGLM_CLOUD_NOTICES_MQTT_URL=broker.url, AUTOGLM_CLOUD_STREAM_LOST_S="0.5", **database()
    )


def machine_joins(controller: Controller, name: str) -> None:
    csr = identity.request(identity.new_key(), name).decode()
    with controller.client() as client:
        body = {"token": controller.token(), "csr": csr, "name": name}
        assert client.post("/api/v1/join", json=body).status_code == 201


def about(bodies: list[bytes], node: str) -> list[dict[str, Any]]:
    """What the controller told of a node, without repeats and without what the node tells itself."""
    found = [one for one in map(json.loads, bodies) if one["type"].startswith("node.")]
    return list({one["id"]: one for one in found if one["node"] == node}.values())


def test_a_node_that_dies_and_comes_back_is_told_by_webhook_and_by_mqtt(
    told: Controller, receiver: Receiver, broker: Mosquitto, start_node: Callable[..., Agent]
) -> None:
    secret = told.run("hooks", "add", receiver.url).stdout.strip()
    with Client(broker.port, TOPICS) as listener:
        agent = start_node(told, "mortal")
        told.until("mortal", ready=True)
        agent.kill(signal.SIGKILL)
        told.until("mortal", state="lost")
        agent.start()
        told.until("mortal", state="active")
        kinds = ["node.joined", "node.lost", "node.returned"]

        def whole(posts: list[Any]) -> bool:
            return [one["type"] for one in about([post.body for post in posts], "mortal")] == kinds

        receiver.wait(whole)
        topic = "autoglm/v1/fleet/events/mortal"

        def heard(messages: list[Any]) -> bool:
            bodies = [one.payload for one in messages if one.topic == topic]
            return [one["type"] for one in about(bodies, "mortal")] == kinds

        listener.wait(heard)
    for post in receiver.posts:
        signed = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert post.headers["webhook-signature"] == f"v1,{right}"
        assert json.loads(post.body)["id"] == post.headers["webhook-id"]


def test_what_happens_while_receivers_or_the_controller_are_dead_is_told_once_they_are_back(
    told: Controller, receiver: Receiver, broker: Mosquitto
) -> None:
    if not json.loads(told.run("hooks", "list", "--json").stdout)[1:]:
        told.run("hooks", "add", receiver.url)
    receiver.stop()
    broker.kill()
    names = [f"later-{number}" for number in range(4)]
    for name in names[:2]:
        machine_joins(told, name)
    told.kill()
    told.start()
    for name in names[2:]:
        machine_joins(told, name)
    broker.start()
    with Client(broker.port, TOPICS) as listener:
        heard = [listener.on(f"autoglm/v1/fleet/events/{name}")[0].json for name in names]
    assert [one["type"] for one in heard] == ["node.joined"] * 4
    before = len(receiver.posts)
    receiver.status = 500  # it is there, and not well
    receiver.start()
    receiver.wait(lambda posts: len(posts) > before)
    [*_, row] = json.loads(told.run("hooks", "list", "--json").stdout)
    assert row["waiting"] >= 4
    assert row["problem"]
    receiver.status = 204
    receiver.wait(lambda posts: any(b"later-3" in post.body for post in posts))
    seen = [json.loads(post.body)["node"] for post in receiver.posts]
    assert sorted(dict.fromkeys(node for node in seen if node in names)) == names


def test_a_hook_for_some_kinds_is_told_of_no_other_and_a_removed_one_of_none(
    told: Controller, tmp_path: Path
) -> None:
    other = Receiver().start()
    try:
        told.run("hooks", "add", other.url, "--kind", "node.revoked")
        machine_joins(told, "chosen")
        told.run("revoke", "chosen")
        [post] = other.wait(lambda posts: posts)
        assert json.loads(post.body)["type"] == "node.revoked"
        [mine] = [one for one in json.loads(told.run("hooks", "list", "--json").stdout) if one["kinds"]]
        told.run("hooks", "remove", mine["id"])
        assert other.url not in told.run("hooks", "list").stdout
    finally:
        other.stop()


@pytest.mark.parametrize(
    "body",
    [{"url": "ftp://x/"}, {"url": "http://"}, {"url": "http://x/", "secret": "short"}, {"url": "http://[x/"}],
)
def test_what_is_no_receiver_is_refused(controller: Controller, body: dict[str, str]) -> None:
    with controller.client() as client:
        assert client.post("/api/v1/hooks", json=body).status_code == 422
    with controller.client(role="operator") as client:
        assert client.post("/api/v1/hooks", json={"url": "http://x/"}).status_code == 403
