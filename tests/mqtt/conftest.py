from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mqtt.broker import Client, Mosquitto
from tests.support.agent import Agent
from tests.support.onnx_file import FLOAT, write_onnx


@pytest.fixture(scope="session")
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(extra: str = "") -> Mosquitto:
        broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), extra)
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture(scope="session")
def broker(start_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return start_broker()


@dataclass(frozen=True)
class Node:
    """An agent with the echo Engine, its broker, and its name."""

    agent: Agent
    broker: Mosquitto
    name: str
    version: str = "5"

    def topic(self, *levels: str) -> str:
        return "/".join(("autoglm/v1", self.name, *levels))

    def client(self, *filters: str, version: str = "", client_id: str = "") -> Client:
        return Client(self.broker.port, *filters, version=version or self.version, client_id=client_id)

    @property
    def state(self) -> Path:
        return self.agent.data_dir / "state.db"


@pytest.fixture(scope="session")
def start_node(start_agent: Callable[..., Agent]) -> Callable[..., Node]:
    def start(
        broker: Mosquitto, name: str, version: str = "5", *, shared: bool = False, **settings: str
    ) -> Node:
        settings = {"AUTOGLM_MQTT_URL": broker.url, **settings}
        agent = start_agent(shared=shared, AUTOGLM_NODE=name, AUTOGLM_MQTT_VERSION=version, **settings)
        node = Node(agent, broker, name, version)
        with node.client(node.topic("status")) as client:
            client.wait(lambda heard: any(one.json["ready"] for one in heard))
        return node

    return start


@pytest.fixture(scope="session", params=["5", "3.1.1"])
def node(request: pytest.FixtureRequest, start_node: Callable[..., Node], broker: Mosquitto) -> Node:
    """A node that speaks one version of MQTT, then one that speaks the other."""
    return start_node(broker, f"node-{request.param}", request.param, shared=True)


@pytest.fixture(scope="session")
def node5(start_node: Callable[..., Node], broker: Mosquitto) -> Node:
    return start_node(broker, "five", shared=True)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Model that gives back what it got: FP32 of [rows, columns], `x` to `y`."""
    file = tmp_path_factory.mktemp("onnx") / "wide.onnx"
    return write_onnx(file, inputs=[("x", FLOAT, (None, None))], outputs=[("y", FLOAT, (None, None))])


@pytest.fixture(scope="session")
def tensor_node(start_node: Callable[..., Node], broker: Mosquitto, magika_path: Path, wide: Path) -> Node:
    """It serves magika and `wide`, beside the echo of texts that is its default."""
    node = start_node(broker, "tensors", shared=True, AUTOGLM_MAX_BATCH_SIZE="4")
    node.agent.pull(magika_path, "magika")
    node.agent.pull(wide, "wide")
    return node
