"""One MQTT 5 connection to a broker, from CONNECT to its end. The only place here that knows paho.

A thread does what blocks (DNS, TLS, the socket) and tells the event loop all. Each connection has a paho
client and a session of its own, so that nothing of a former one comes into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cloud_sync.tunnel.pipe import PIECE
from models.address import without_login

KEEPALIVE_S = 30
CONNECT_S = 20
CLOSE_S = 2  # then the thread is left to itself
WINDOW = 16  # messages that the broker has not acked yet
ROOM = 512  # bytes of a packet beside its payload


class BrokerError(Exception):
    """The connection could not be made, or is over."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker is. `url`: mqtt:// or mqtts://user:password@host:port; `ca`: PEM, else the system's."""

    url: str
    ca: str = ""

    @property
    def shown(self) -> str:
        """Without the login."""
        return without_login(self.url)

    def connect(self, client: paho.Client, keepalive_s: int) -> None:
        """Wait until the socket is there, and with mqtts:// TLS. OSError, ValueError, MQTTException."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "mqtts"
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if secure:
            client.tls_set_context(ssl.create_default_context(cadata=self.ca or None))
        port = parts.port or (8883 if secure else 1883)
        client.connect(parts.hostname or "localhost", port, keepalive_s)


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    correlation: bytes
    reply: str


class Broker:
    """`on_message` is called on the event loop, in the order of arrival. `id`: this connection's own."""

    def __init__(self, place: Place, will: str, on_message: Callable[[Message], None]) -> None:
        self.id = secrets.token_hex(8)
        self.piece = PIECE
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[BrokerError] = self._loop.create_future()
        self._window = asyncio.Semaphore(WINDOW)
        self._client = self._make(will)
        self._thread = threading.Thread(target=self._run, name="cloud-mqtt", daemon=True)

    async def connect(self, filters: Sequence[str]) -> None:
        """Connect and subscribe. BrokerError."""
        self._filters = filters
        self._thread.start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.wait((self._subscribed, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self._over(self._error(f"no answer in {CONNECT_S} s"))
        if self._ended.done():
            raise self._ended.result()

    @property
    def is_over(self) -> bool:
        return self._ended.done()

    async def ended(self) -> BrokerError:
        """Waits for the end of the connection."""
        return await asyncio.shield(self._ended)

    async def publish(self, topic: str, payload: bytes, correlation: bytes, reply: str = "") -> None:
        """Once there is room for it on its way. BrokerError."""
        await self._window.acquire()
        if self._ended.done():
            self._window.release()
            raise self._ended.result()
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = correlation
        if reply:
            properties.ResponseTopic = reply
        self._client.publish(topic, payload, qos=1, properties=properties)

    async def close(self) -> None:
        """The last will is published: whoever is at the other end hears of it."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, CLOSE_S)

    # In the thread.

    def _run(self) -> None:
        try:
            self._place.connect(self._client, KEEPALIVE_S)
            while (code := self._client.loop()) == paho.MQTT_ERR_SUCCESS:
                pass
            error = self._error(paho.error_string(code))
        except (OSError, ValueError, MQTTException) as problem:
            error = self._error(str(problem))
        self._tell(self._over, error)

    def _error(self, message: str) -> BrokerError:
        return BrokerError(f"the broker at {self._place.shown}: {message}")

    def _make(self, will: str) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"autoglm-cloud-{self.id}",
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.will_set(will, self.id.encode(), qos=1)
        client.on_connect, client.on_disconnect = self._connack, self._disconnected
        client.on_subscribe, client.on_message = self._suback, self._received
        client.on_publish = lambda *_: self._tell(self._window.release)
        client.on_socket_register_write = lambda *_: None  # or paho would write in the caller's thread
        return client

    def _tell(self, call: Callable[..., None], *values: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to hear
            self._loop.call_soon_threadsafe(call, *values)

    def _connack(self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, given: Any) -> None:
        if reason.is_failure:
            return self._tell(self._over, self._error(f"it refuses: {reason}"))
        if most := getattr(given, "MaximumPacketSize", None):
            self.piece = max(1, min(PIECE, most - ROOM))
        client.subscribe([(one, 1) for one in self._filters])

    def _suback(self, _client: Any, _data: Any, _mid: int, reasons: list[ReasonCode], _given: Any) -> None:
        if bad := [str(reason) for reason in reasons if reason.is_failure]:
            self._tell(self._over, self._error(f"it refuses a subscription: {bad[0]}"))
        else:
            self._tell(self._welcome)

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _given: Any) -> None:
        self._tell(self._over, self._error(str(reason)))

    def _received(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        given = message.properties
        correlation = getattr(given, "CorrelationData", b"")
        reply = getattr(given, "ResponseTopic", "")
        self._tell(self._on_message, Message(message.topic, bytes(message.payload), correlation, reply))

    # On the event loop again.

    def _welcome(self) -> None:
        if not self._subscribed.done():
            self._subscribed.set_result(None)

    def _over(self, error: BrokerError) -> None:
        if not self._ended.done():
            self._ended.set_result(error)
            self._client.disconnect()
            self._window.release()  # who waits to publish hears of it, one after the other
