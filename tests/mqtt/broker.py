"""A real mosquitto of a test's own, and a paho client that remembers what it heard."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.agent import free_port

WAIT_S = 30.0
LENGTH = "Inference-Header-Content-Length"  # a User Property
ONE = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}  # an input of `wide`


@dataclass
class Mosquitto:
    """On loopback, with its database in `folder`, saved at each change so that kill -9 loses little."""

    folder: Path
    extra: str = ""  # configuration
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> Self:
        config = self.folder / "mosquitto.conf"
        access = "" if "password_file" in self.extra else "allow_anonymous true"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n{access}\n"
            f"persistence true\npersistence_location {self.folder}/\n"
            f"autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\nuser root\n{self.extra}\n"
        )
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", config], stdout=log, stderr=log)
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise AssertionError((self.folder / "mosquitto.log").read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill(signal.SIGTERM)


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: bytes
    correlation: bytes | None
    retain: bool
    user: dict[str, str]  # User Properties

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Client:
    """Publishes and listens at QoS 1. A context manager: connected inside."""

    def __init__(
        self, port: int, *filters: str, version: str = "5", client_id: str = "", login: str = ""
    ) -> None:
        v5 = version == "5"
        self.heard: list[Heard] = []
        self._news = threading.Condition()
        self._subscribed = threading.Event()
        self._filters = filters
        self._v5, self._session = v5, bool(client_id)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            clean_session=None if v5 else not client_id,
        )
        if login:
            self._client.username_pw_set(*login.split(":"))
        self._client.max_inflight_messages_set(100)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._hear
        self._port = port

    def _connected(self, *_: Any) -> None:
        if self._filters:
            self._client.subscribe([(filter, 1) for filter in self._filters])
        else:
            self._subscribed.set()

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        with self._news:
            user = dict(getattr(message.properties, "UserProperty", ()))
            self.heard.append(Heard(message.topic, message.payload, correlation, message.retain, user))
            self._news.notify_all()

    def __enter__(self) -> Self:
        options: dict[str, Any] = {}
        if self._v5 and self._session:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600
            options = {"clean_start": False, "properties": properties}
        self._client.connect("127.0.0.1", self._port, **options)
        self._client.loop_start()
        assert self._subscribed.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(
        self,
        topic: str,
        body: Any,
        *,
        reply: str = "",
        correlation: bytes = b"",
        user: dict[str, str] | None = None,
        wait: bool = True,
        qos: int = 1,
    ) -> paho.MQTTMessageInfo:
        """`body` as it is where it is bytes, else as JSON. With `wait`, until the broker has it."""
        properties = None
        if reply or user:
            properties = Properties(PacketTypes.PUBLISH)
            if reply:
                properties.ResponseTopic = reply
            if correlation:
                properties.CorrelationData = correlation
            if user:
                properties.UserProperty = list(user.items())
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        info = self._client.publish(topic, payload, qos=qos, properties=properties)
        if wait:
            info.wait_for_publish(WAIT_S)
        return info

    def wait(self, found: Callable[[list[Heard]], Any], seconds: float = WAIT_S) -> Any:
        """What `found` gives of all that was heard, once it is something."""
        until = time.monotonic() + seconds
        with self._news:
            while not (answer := found(self.heard)):
                left = until - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"heard only {self.heard[-20:]}")
                self._news.wait(left)
        return answer

    def on(self, topic: str, count: int = 1, seconds: float = WAIT_S) -> list[Heard]:
        """Waits for `count` messages on `topic`: all there are."""

        def found(heard: list[Heard]) -> list[Heard] | None:
            there = [one for one in heard if one.topic == topic]
            return there if len(there) >= count else None

        messages: list[Heard] = self.wait(found, seconds)
        return messages


def chat(id: str, text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"id": id, "messages": [{"role": "user", "content": text}], **more}
