"""Between node and controller is a bad line: the node converges, and nothing disturbs its doors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloud_sync.transports import https
from cloud_sync.transports.https import Https, fetch_ca
from cloud_sync.transports.transport import LinkError
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.tcp_proxy import TcpProxy, Weather

SLOW = Weather(delay_s=0.1)
TRICKLE = Weather(delay_s=0.002, piece=48)
CUT = Weather(life=(200, 12000))
RESET = Weather(life=(200, 12000), reset=True)


@pytest.fixture(scope="module")
def here(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")


@pytest.fixture(scope="module")
def line(here: Controller) -> Iterator[TcpProxy]:
    proxy = TcpProxy(here.port)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def node(here: Controller, line: TcpProxy, start_node: Callable[..., Agent]) -> Agent:
    return start_node(here, "outdoors", address=f"https://127.0.0.1:{line.port}")


class Callers:
    """Ask the node one question after the other until told to stop; all must be answered."""

    def __init__(self, node: Agent) -> None:
        self._node = node
        self.answers: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.1):
            self.answers.append(self._node.chat("hello").status_code)

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert set(self.answers) == {200}


@pytest.mark.parametrize("weather", [SLOW, TRICKLE, CUT, RESET], ids=["slow", "trickle", "cut", "reset"])
def test_a_node_converges_through_any_weather_and_its_callers_see_none_of_it(
    here: Controller, line: TcpProxy, node: Agent, weather: Weather, request: pytest.FixtureRequest
) -> None:
    line.weather = weather
    cuts = line.cuts
    line.cut()
    with Callers(node):
        for heartbeat_s in (1.1, 1.2):
            assert here.configure("node:outdoors", heartbeat_s=heartbeat_s).status_code == 200
            here.until_observed("outdoors", seconds=100)
    assert weather.life is None or line.cuts > cuts
    line.weather = Weather()
    assert here.nodes()["outdoors"]["state"] == "active"  # what came late is no clone


@pytest.mark.parametrize("whole_s", [0.3])
async def test_an_answer_that_trickles_for_ever_is_given_up(
    here: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_s: float
) -> None:
    monkeypatch.setattr(https, "WHOLE_S", whole_s)
    proxy = TcpProxy(here.port)
    here.join(tmp_path, "patient")
    transport = Https(
        f"https://127.0.0.1:{proxy.port}", tmp_path / "cloud" / "ca.pem", tmp_path / "cloud" / "identity.pem"
    )
    try:
        assert await transport.desired(None)
        proxy.weather = Weather(delay_s=0.05, piece=8)
        with pytest.raises(LinkError):
            await transport.desired(None)
    finally:
        await transport.close()
        proxy.stop()


async def test_an_answer_without_end_is_cut_off() -> None:
    """`join` reads from a server that nobody has vouched for yet."""
    listener = socket.create_server(("127.0.0.1", 0))

    def endless() -> None:
        client, _ = listener.accept()
        with client, suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")

    server = threading.Thread(target=endless)
    server.start()
    with pytest.raises(LinkError, match="more than"):
        await fetch_ca(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.join()
    listener.close()
