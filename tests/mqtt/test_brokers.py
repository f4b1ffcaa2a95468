"""Brokers that are far, locked, away or built in."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mqtt.broker import Client, Mosquitto, chat
from tests.support.agent import Agent, free_port
from tests.support.waiting import until

LOGIN = "edge:p@ss/word"


def wait_for_log(agent: Agent, text: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while text not in agent.log:
        assert time.monotonic() < until, agent.log[-3000:]
        time.sleep(0.05)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and a server's and a client's certificate and key that it signed."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(
        folder, *new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.crt"
    )
    for name in ("server", "client"):
        openssl(folder, *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed)
    return folder


@pytest.fixture(scope="module")
def locked(certificates: Path, start_broker: Callable[..., Mosquitto]) -> tuple[Mosquitto, int]:
    """A broker with TLS, client certificates and a password; and a port of its without TLS."""
    passwords = certificates / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, *LOGIN.split(":")], check=True)
    plain = free_port()
    broker = start_broker(
        f"password_file {passwords}\ncafile {certificates}/ca.crt\ncertfile {certificates}/server.crt\n"
        f"keyfile {certificates}/server.key\nrequire_certificate true\nlistener {plain} 127.0.0.1"
    )
    return broker, plain


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_tls_with_certificates_and_a_password_by_settings_or_url(
    start_agent: Callable[..., Agent], locked: tuple[Mosquitto, int], certificates: Path, version: str
) -> None:
    broker, plain = locked
    at = f"127.0.0.1:{broker.port}"
    agent = start_agent(
        AUTOGLM_NODE="locked",
        AUTOGLM_MQTT_VERSION=version,
        AUTOGLM_MQTT_CA_FILE=str(certificates / "ca.crt"),
        AUTOGLM_MQTT_CERT_FILE=str(certificates / "client.crt"),
        AUTOGLM_MQTT_KEY_FILE=str(certificates / "client.key"),
        **(
            {"AUTOGLM_MQTT_URL": f"mqtts://edge:p%40ss%2Fword@{at}"}
            if version == "5"
            else {
                "AUTOGLM_MQTT_URL": f"mqtts://{at}",
                "AUTOGLM_MQTT_USERNAME": "edge",
                "AUTOGLM_MQTT_PASSWORD": "p@ss/word",
            }
        ),
    )
    with Client(plain, "autoglm/v1/locked/#", login=LOGIN) as client:
        client.wait(lambda heard: any(one.topic.endswith("status") and one.json["ready"] for one in heard))
        client.publish("autoglm/v1/locked/prompts", chat(f"tls-{version}", "in private"))
        client.on(f"autoglm/v1/locked/results/tls-{version}")
    assert "p@ss" not in agent.log
    agent.stop()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"AUTOGLM_MQTT_URL": "mqtt://edge:wrong@127.0.0.1:{plain}"},
            "127.0.0.1:{plain}: the broker refused",
        ),
        ({"AUTOGLM_MQTT_URL": "mqtts://edge:p%40ss%2Fword@127.0.0.1:{port}"}, "certificate verify failed"),
        ({"AUTOGLM_MQTT_URL": "mqtt://a:p%40ss@no-such-host.invalid"}, "no-such-host.invalid:1883: "),
        ({"AUTOGLM_MQTT_URL": "mqtts://127.0.0.1", "AUTOGLM_MQTT_CA_FILE": "/nonexistent"}, "No such file"),
    ],
    ids=["wrong password", "unknown CA", "no such host", "no CA file"],
)
def test_a_broker_that_cannot_be_had_is_told_of_and_never_stops_http(
    start_agent: Callable[..., Agent], locked: tuple[Mosquitto, int], settings: dict[str, str], reason: str
) -> None:
    broker, plain = locked
    agent = start_agent(
        **{name: text.format(plain=plain, port=broker.port) for name, text in settings.items()}
    )
    wait_for_log(agent, reason.format(plain=plain))
    assert "p@ss" not in agent.log
    assert "p%40ss" not in agent.log
    assert agent.chat("still here").status_code == 200
    assert "Traceback" not in agent.log
    assert agent.stop() == 0


def test_a_broker_that_comes_late_is_found(
    start_agent: Callable[..., Agent], start_broker: Callable[..., Mosquitto]
) -> None:
    broker = start_broker()
    broker.kill()
    agent = start_agent(AUTOGLM_NODE="early", AUTOGLM_MQTT_URL=broker.url)
    wait_for_log(agent, "mqtt broker away")
    assert agent.chat("no broker").status_code == 200
    broker.start()
    with Client(broker.port, "autoglm/v1/early/#") as client:
        client.wait(lambda heard: any(one.topic.endswith("status") and one.json["ready"] for one in heard))
        client.publish("autoglm/v1/early/prompts", chat("late", "at last"))
        client.on("autoglm/v1/early/results/late")
    agent.stop()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_result_that_the_broker_cannot_bear_does_not_stop_the_others(
    start_agent: Callable[..., Agent], start_broker: Callable[..., Mosquitto], version: str
) -> None:
    """With MQTT 5 a broker says its bound; with 3.1.1 it ends the connection, each time."""
    broker = start_broker("max_packet_size 20000")
    agent = start_agent(AUTOGLM_NODE="big", AUTOGLM_MQTT_VERSION=version, AUTOGLM_MQTT_URL=broker.url)
    agent.connected()
    with Client(broker.port, "autoglm/v1/big/results/#") as client:
        client.publish("autoglm/v1/big/prompts", chat("big", "x" * 2000, n=16))
        for number in range(3):
            client.publish("autoglm/v1/big/prompts", chat(f"small-{number}"))
            client.on(f"autoglm/v1/big/results/small-{number}")
        assert not any(one.topic.endswith("/big/results/big") for one in client.heard)
    wait_for_log(agent, "too large" if version == "5" else "end at one outbox row")
    agent.stop()


def test_a_response_topic_that_the_broker_denies_stops_nobody(
    start_agent: Callable[..., Agent], start_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    """With `message_size_limit`, this mosquitto ends the connection at each denied publication."""
    (tmp_path / "acl").write_text("topic readwrite autoglm/#\n")
    broker = start_broker(f"acl_file {tmp_path}/acl\nmessage_size_limit 1000000")
    agent = start_agent(AUTOGLM_NODE="denied", AUTOGLM_MQTT_URL=broker.url).connected()
    with Client(broker.port, "autoglm/v1/denied/results/#") as client:
        for number in range(5):
            client.publish("autoglm/v1/denied/prompts", chat(f"denied-{number}"), reply=f"not/for/{number}")
            client.publish("autoglm/v1/denied/prompts", chat(f"small-{number}"))
        for number in range(5):
            client.on(f"autoglm/v1/denied/results/small-{number}")
    until(lambda: agent.metric('mqtt_messages_total{kind="rejected"}') == 5)
    agent.stop()


def test_an_accepted_prompt_waits_longer_than_one_request_may_take(
    start_agent: Callable[..., Agent], start_broker: Callable[..., Mosquitto]
) -> None:
    broker = start_broker()
    agent = start_agent(
        AUTOGLM_NODE="patient",
        AUTOGLM_MQTT_URL=broker.url,
        AUTOGLM_MAX_BATCH_SIZE="1",
        AUTOGLM_REQUEST_TIMEOUT_S="3",
        ECHO_STEP_SECONDS="0.01",
    ).connected()
    with Client(broker.port, "autoglm/v1/patient/results/#") as client:
        for number in range(10):
            client.publish("autoglm/v1/patient/prompts", chat(f"p-{number}", "x" * 40))
        for number in range(10):
            [result] = client.on(f"autoglm/v1/patient/results/p-{number}")
            assert result.json["choices"][0]["message"]["content"] == "x" * 40
    agent.stop()
