"""The broker inside the agent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mqtt.broker import LENGTH, Client, chat
from tests.mqtt.test_brokers import wait_for_log
from tests.support.agent import Agent, two_ports
from tests.support.onnx_file import FLOAT, write_onnx


@pytest.fixture(scope="module")
def embedded(start_agent: Callable[..., Agent]) -> tuple[Agent, int]:
    port = two_ports()
    agent = start_agent(
        AUTOGLM_NODE="own",
        AUTOGLM_MQTT_URL="embedded",
        AUTOGLM_EMBEDDED_PORT=str(port),
        AUTOGLM_CONTEXT="1048576",
    )
    wait_for_log(agent, "mqtt connected")
    return agent, port


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_the_embedded_broker_serves_both_versions(embedded: tuple[Agent, int], version: str) -> None:
    _, port = embedded
    with Client(port + (version == "5"), "autoglm/v1/own/#", version=version) as client:
        body = chat(f"own-{version}", "no broker needed", stream=True)
        client.publish("autoglm/v1/own/prompts/ann", body)
        [result] = client.on(f"autoglm/v1/own/results/ann/own-{version}")
        tokens = client.on(f"autoglm/v1/own/tokens/ann/own-{version}")
        assert "".join(one.json["text"] for one in tokens) == "no broker needed"
        client.publish("autoglm/v1/own/prompts/ann", body)
        again = client.on(f"autoglm/v1/own/results/ann/own-{version}", 2)
        assert {one.payload for one in again} == {result.payload}


def test_the_embedded_broker_passes_the_response_topic_on(embedded: tuple[Agent, int]) -> None:
    _, port = embedded
    with Client(port + 1, "my/#") as client:
        client.publish("autoglm/v1/own/prompts", chat("reply"), reply="my/topic", correlation=b"\x01")
        assert client.on("my/topic")[0].correlation == b"\x01"


def test_the_embedded_broker_passes_raw_tensors_on(embedded: tuple[Agent, int], tmp_path: Path) -> None:
    agent, port = embedded
    file = write_onnx(
        tmp_path / "x.onnx", inputs=[("x", FLOAT, (None, 1))], outputs=[("y", FLOAT, (None, 1))]
    )
    agent.pull(file, "floats")
    one = {"name": "x", "shape": [1, 1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    start = json.dumps({"id": "f", "inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    with Client(port + 1, "autoglm/v1/own/results/#") as client:
        client.publish("autoglm/v1/own/infer/floats", start + b"\0\0\0\x3f", user={LENGTH: str(len(start))})
        [result] = client.on("autoglm/v1/own/results/f")
    assert result.payload[int(result.user[LENGTH]) :] == b"\0\0\0\x3f"


def test_the_embedded_broker_takes_what_the_node_takes(embedded: tuple[Agent, int]) -> None:
    _, port = embedded
    text = "y" * (7 * 1024 * 1024)
    with Client(port + 1, "autoglm/v1/own/results/#") as client:
        client.publish("autoglm/v1/own/prompts", chat("large", text, max_tokens=1))
        [result] = client.on("autoglm/v1/own/results/large")
        assert result.json["id"] == "large"


def test_the_embedded_broker_listens_on_loopback_only(embedded: tuple[Agent, int]) -> None:
    _, port = embedded
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    at = {line[1] for line in listening if int(line[1].partition(":")[2], 16) in (port, port + 1)}
    assert at == {f"0100007F:{port:04X}", f"0100007F:{port + 1:04X}"}


def test_a_broker_child_that_dies_is_started_again(embedded: tuple[Agent, int]) -> None:
    agent, port = embedded
    found = subprocess.run(["pgrep", "-P", str(agent.pid), "-f", "iotcore"], capture_output=True, text=True)
    subprocess.run(["kill", "-9", *found.stdout.split()], check=True)
    until = time.monotonic() + 30
    while agent.log.count('"mqtt connected"') < 2:
        assert time.monotonic() < until, agent.log[-3000:]
        time.sleep(0.05)
    with Client(port + 1, "autoglm/v1/own/results/#") as client:
        client.publish("autoglm/v1/own/prompts", chat("reborn"))
        client.on("autoglm/v1/own/results/reborn")


def test_the_embedded_broker_goes_with_its_agent(embedded: tuple[Agent, int]) -> None:
    agent, port = embedded
    agent.kill(signal.SIGKILL)
    until = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        assert time.monotonic() < until
        time.sleep(0.05)
    agent.restart()
    wait_for_log(agent, "mqtt connected")
    agent.stop()


def test_a_taken_port_is_told_of_and_http_goes_on(start_agent: Callable[..., Agent]) -> None:
    port = two_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        agent = start_agent(AUTOGLM_MQTT_URL="embedded", AUTOGLM_EMBEDDED_PORT=str(port))
        wait_for_log(agent, str(port))
        wait_for_log(agent, "no embedded broker")
        assert agent.chat("still here").status_code == 200
        assert agent.stop() == 0
