"""Where only a broker can be reached, the link goes through it; the broker is trusted with nothing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_sync.identity import DAY, new_authority, new_key
from cloud_sync.membership import Membership
from cloud_sync.messages import Join, Report
from cloud_sync.transports.choice import open_transport
from cloud_sync.transports.mqtt import Mqtt
from cloud_sync.transports.transport import Rejected
from cloud_sync.tunnel.broker import Place
from cloud_sync.tunnel.pipe import PIECE
from tests.cloud.test_weather import Callers
from tests.mqtt.broker import Client, Mosquitto
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.postgres import Postgres

LOGIN = "fleet:s3cret-of-the-broker"
RULES = """
user the controller
topic read autoglm/cloud/v1/+/up/#
topic read autoglm/cloud/v1/+/gone
topic write autoglm/cloud/v1/+/down
topic write autoglm/cloud/v1/gone
user box1
topic write autoglm/cloud/v1/box1/up/#
topic write autoglm/cloud/v1/box1/gone
topic read autoglm/cloud/v1/box1/down
topic read autoglm/cloud/v1/gone
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def controller(
    start_controller: Callable[..., Controller], broker: Mosquitto, postgres: Postgres
) -> Controller:
    return start_controller(
        AUTOGLM_CLOUD_MQTT_URL=broker.url,
        AUTOGLM_CLOUD_HEARTBEAT_S="1",
        AUTOGLM_CLOUD_DATABASE_URL=postgres.database(),
    )


@pytest.fixture(scope="module")
def url(broker: Mosquitto) -> str:
    """With a login, which this broker does not look at."""
    return broker.url.replace("//", f"//{LOGIN}@")


@pytest.fixture(scope="module")
def listener(broker: Mosquitto) -> Iterator[Client]:
    """Whoever has the broker: hears all, from before anybody joins."""
    with Client(broker.port, "autoglm/cloud/#") as client:
        yield client


@pytest.fixture(scope="module")
def node(controller: Controller, listener: Client, start_node: Callable[..., Agent], url: str) -> Agent:
    return start_node(controller, "afar", address=url, AUTOGLM_TELEMETRY_PERIOD_S="1")


def test_a_machine_joins_reports_and_is_told_through_a_broker(controller: Controller, node: Agent) -> None:
    row = controller.until("afar", ready=True)
    assert row["address"] == "mqtt"
    controller.configure("node:afar", priority=4)
    controller.until_observed("afar")
    node.wait("/readyz")
    assert node.status()["settings"]["priority"] == 4


def test_the_login_at_the_broker_is_shown_nowhere(node: Agent, url: str) -> None:
    told = node.status()["cloud"]
    assert told["url"] == url.replace(f"{LOGIN}@", "")
    assert LOGIN not in node.log


def test_telemetry_goes_the_same_way(controller: Controller, node: Agent) -> None:
    until = time.monotonic() + 60
    with controller.client() as client:
        while not client.get("/api/v1/events", params={"node": "afar", "kind": "start"}).json():
            assert time.monotonic() < until, node.status()["telemetry"]
            time.sleep(0.1)


async def test_a_document_larger_than_a_message_comes_through(
    controller: Controller, broker: Mosquitto, tmp_path: Path
) -> None:
    controller.join(tmp_path, "bulky")
    models = {f"model-{number}": {"priority": 1, "instances": 1, "context": 4096} for number in range(199)}
    assert controller.configure("node:bulky", models=models).status_code == 200
    cloud = tmp_path / "cloud"
    node = Mqtt(Place(broker.url), "bulky", tmp_path / "socket", cloud / "ca.pem", cloud / "identity.pem")
    try:
        found = await node.desired(None)
        assert found is not None
        assert found.settings["models"] == models
        assert len(found.model_dump_json()) > PIECE / 2
        with pytest.raises(Rejected, match="at most"):
            await node.join(Join.model_construct(token="x", csr="x" * (5 << 20), name="bulky"))
    finally:
        await node.close()


def test_who_has_the_broker_reads_nothing_and_says_nothing(
    controller: Controller, node: Agent, listener: Client, broker: Mosquitto
) -> None:
    """All that went by is said again, and changed, to both sides."""
    controller.configure("node:afar", heartbeat_s=1.987654)
    controller.until_observed("afar")
    heard = list(listener.heard)
    assert len(heard) > 20
    assert not [one for one in heard if b"987654" in one.payload or b"HTTP/1.1" in one.payload]
    before = controller.nodes()["afar"]
    with Client(broker.port) as client, Callers(node):
        for one in heard[-200:]:
            for payload in (one.payload, one.payload[:4] + b"\x17\x03\x03\x00\x04evil", b"", b"\xff" * 40):
                reply = "autoglm/cloud/v1/afar/down" if one.topic.endswith("/up") else ""
                client.publish(
                    one.topic, payload, reply=reply, correlation=one.correlation or b"", wait=False
                )
        controller.configure("node:afar", heartbeat_s=1.9)
        controller.until_observed("afar")
    after = controller.nodes()["afar"]
    assert (after["state"], after["generation"]) == ("active", before["generation"] + 1)


def test_a_broker_that_is_killed_and_back_costs_the_callers_nothing(
    controller: Controller, node: Agent, broker: Mosquitto
) -> None:
    with Callers(node):
        broker.kill()
        controller.configure("node:afar", heartbeat_s=1.5)
        broker.start()
        controller.until_observed("afar", seconds=100)


def test_of_two_copies_behind_a_broker_one_may_die(
    controller: Controller, start_controller: Callable[..., Controller], node: Agent
) -> None:
    second = start_controller(ready=False, **controller.environment)
    second.data_dir.mkdir(exist_ok=True)
    for name in ("ca.pem", "ca.key", "signing.key"):
        shutil.copy(controller.data_dir / name, second.data_dir / name)
    second.start()
    controller.kill()
    for heartbeat_s in (1.1, 1.2):
        second.configure("node:afar", heartbeat_s=heartbeat_s)
        second.until_observed("afar", seconds=100)
    controller.start()
    second.stop()
    controller.configure("node:afar", heartbeat_s=1.3)
    controller.until_observed("afar", seconds=100)


def test_a_token_of_another_controller_is_not_shown_to_this_one(
    controller: Controller, listener: Client, url: str, tmp_path: Path
) -> None:
    id, secret, _ = controller.token().split(".")
    done = controller.try_to_join(tmp_path, "astray", f"{id}.{secret}.{'0' * 64}", address=url)
    assert done.returncode == 1
    assert "not the controller that this token comes from" in done.stderr
    assert "s3cret" not in done.stderr
    assert not [one for one in listener.heard if secret.encode() in one.payload]


def test_a_broker_that_is_not_there_is_said(controller: Controller, tmp_path: Path) -> None:
    done = controller.try_to_join(tmp_path, "alone", controller.token(), address="mqtt://127.0.0.1:1")
    assert done.returncode == 1
    assert "mqtt://127.0.0.1:1" in done.stderr


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Mosquitto, Path]]:
    """A broker with TLS, logins and the access rules of docs/cloud.md; and its CA."""
    (ca := tmp_path / "ca.pem").write_bytes((authority := new_authority("broker", time.time())).certificate)
    (tmp_path / "key.pem").write_bytes(key := new_key())
    (tmp_path / "server.pem").write_bytes(authority.issue_server(key, ["127.0.0.1"], time.time(), DAY))
    (tmp_path / "rules").write_text(RULES)
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    for user in ("the controller", "box1"):
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, "p@ss/word"], check=True)
    one = Mosquitto(
        tmp_path,
        f"password_file {passwords}\nacl_file {tmp_path}/rules\nallow_anonymous false\n"
        f"certfile {tmp_path}/server.pem\nkeyfile {tmp_path}/key.pem",
    ).start()
    yield one, ca
    one.stop()


async def test_a_broker_with_tls_logins_and_the_access_rules_as_documented(
    start_controller: Callable[..., Controller], locked: tuple[Mosquitto, Path], tmp_path: Path
) -> None:
    broker, ca = locked
    at = f"p%40ss%2Fword@127.0.0.1:{broker.port}"
    controller = start_controller(
        AUTOGLM_CLOUD_MQTT_URL=f"mqtts://the%20controller:{at}", AUTOGLM_CLOUD_MQTT_CA_FILE=str(ca)
    )
    token = controller.token()
    unknown = controller.try_to_join(tmp_path / "data", "box1", token, address=f"mqtts://box1:{at}")
    assert "certificate verify failed" in unknown.stderr
    joined = controller.try_to_join(
        tmp_path / "data", "box1", token, "--broker-ca", str(ca), address=f"mqtts://box1:{at}"
    )
    assert joined.returncode == 0, joined.stderr
    node = Membership(tmp_path / "data" / "cloud")
    transport = open_transport(node.fleet, node.ca, node.identity)
    try:
        answer = await transport.report(Report(boot="boot-one", number=1, version="1"))
        assert answer.generation == 1
        hints = transport.hints()
        assert await anext(hints) is None
        await asyncio.to_thread(controller.configure, "node:box1", priority=4)
        assert await anext(hints) == (1, 2)
        await hints.aclose()
    finally:
        await transport.close()
    assert "p@ss" not in controller.log + joined.stderr + unknown.stderr
