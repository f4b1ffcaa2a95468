"""One connection to the broker, from CONNECT to its end. The only place that knows paho.

Each connection has a paho client of its own: an ack or a publication that comes too late goes to a dead
client, never into the next connection; and paho's own memory of what to send again, which would work beside
our outbox, goes with it. A thread does what blocks (DNS, TLS, the socket) and tells the event loop all.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from agent.config import Settings

KEEPALIVE_S = 30
SESSION_S = 7 * 86400  # how long the broker keeps what comes while the node is away
WINDOW = 20  # messages in each direction that are not acked yet
TOKENS_UNSENT = 512  # QoS 0 messages in paho's memory; beyond, they are dropped
CONNECT_S = 30
CLOSE_S = 2  # then the thread is left to itself
UserProperties = Sequence[tuple[str, str]]
NOT_ALLOWED = {"Bad user name or password", "Not authorized", "Banned", "Bad authentication method"}


class LinkError(Exception):
    """The connection could not be made, or ended. `slow`: trying again soon will not help."""

    def __init__(self, message: str, *, slow: bool = False) -> None:
        super().__init__(message)
        self.slow = slow


@dataclass(frozen=True, slots=True)
class Message:
    """What came in. `mid` is 0 for QoS 0, which is not acked."""

    topic: str
    payload: bytes
    mid: int = 0
    response_topic: str | None = None
    correlation: bytes = b""
    expires_in: float | None = None  # seconds
    user: UserProperties = ()


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes


class Link:
    """Calls on the event loop: `on_message` in the order of arrival, and `on_published(key, refusal)`.

    `refusal` is "" where the broker took the message, and what it said where it did not.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        client_id: str,
        will: Will,
        on_message: Callable[[Message], None],
        on_published: Callable[[int, str], None],
    ) -> None:
        self._settings, self._url = settings, urlsplit(url)
        self._host = self._url.hostname or "localhost"
        self._port = self._url.port or (8883 if self._url.scheme == "mqtts" else 1883)
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_published = on_message, on_published
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[LinkError] = self._loop.create_future()
        self._sent: dict[int, int] = {}  # paho's number of a QoS 1 message -> the caller's key
        self._unsent: set[int] = set()  # paho's numbers of QoS 0 messages
        self._v5 = settings.mqtt_version == "5"
        self.max_packet: int | None = None  # bytes, where the broker said so
        self.window = WINDOW  # QoS 1 messages that may be under way to the broker
        self._client = self._make(client_id, will)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    # For the event loop.

    async def connect(self, filters: list[str]) -> None:
        """Connect and subscribe to `filters`. Raises LinkError."""
        self._thread.start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.wait((self._connected, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self._over(self._error(f"no answer from the broker in {CONNECT_S} s"))
        if self._ended.done():
            raise self._ended.result()
        self._client.subscribe([(filter, 1) for filter in filters])

    async def ended(self) -> LinkError:
        """Waits for the end of the connection."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Send what is queued, say goodbye (the broker drops the last will), and let the thread end."""
        self._client.disconnect()
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def ack(self, mid: int) -> None:
        self._client.ack(mid, 1)

    def publish(
        self, key: int, topic: str, payload: bytes, *, correlation: bytes = b"", user: UserProperties = ()
    ) -> bool:
        """Send at QoS 1; `on_published` follows. False: the broker takes no message of this size."""
        size = len(payload) + len(topic) + len(correlation) + sum(len(n) + len(v) + 5 for n, v in user) + 64
        if self.max_packet is not None and size > self.max_packet:
            return False
        properties = None
        if self._v5 and (correlation or user):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if correlation:
                properties.CorrelationData = correlation
            if user:
                properties.UserProperty = list(user)
        info = self._client.publish(topic, payload, qos=1, properties=properties)
        self._sent[info.mid] = key
        return True

    def publish_status(self, topic: str, payload: bytes) -> None:
        """Send retained at QoS 1; nobody hears of its fate."""
        self._client.publish(topic, payload, qos=1, retain=True)

    def publish_tokens(self, topic: str, payload: bytes) -> bool:
        """Send at QoS 0. False: the broker is too slow, and the message was dropped."""
        if len(self._unsent) >= TOKENS_UNSENT:
            return False
        self._unsent.add(self._client.publish(topic, payload, qos=0).mid)
        return True

    # In the thread.

    def _run(self) -> None:
        try:
            self._secure()
            self._client.connect(self._host, self._port, KEEPALIVE_S, **self._connect_options())
            while (code := self._client.loop()) == paho.MQTT_ERR_SUCCESS:
                pass
            error = self._error(paho.error_string(code))
        except OSError as problem:
            error = self._error(str(problem), slow=isinstance(problem, ssl.SSLError))
        except (ValueError, MQTTException) as problem:  # a broken packet, a name that cannot be one
            error = self._error(f"{type(problem).__name__}: {problem}")
        self._tell(self._over, error)

    def _error(self, message: str, *, slow: bool = False) -> LinkError:
        """With the place, and without the login that the URL may hold."""
        return LinkError(f"{self._host}:{self._port}: {message}", slow=slow)

    def _make(self, client_id: str, will: Will) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self._v5 else False,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        username = self._settings.mqtt_username or unquote(self._url.username or "")
        secret = self._settings.mqtt_password
        password = secret.get_secret_value() if secret else unquote(self._url.password or "")
        if username or password:
            client.username_pw_set(username, password or None)
        client.on_connect, client.on_disconnect = self._connack, self._disconnected
        client.on_subscribe, client.on_message, client.on_publish = (
            self._suback,
            self._received,
            self._published,
        )
        client.on_socket_register_write = lambda *_: None  # or paho would write in the caller's thread
        return client

    def _secure(self) -> None:
        settings = self._settings
        if self._url.scheme == "mqtts":
            context = ssl.create_default_context(cafile=settings.mqtt_ca_file)
            if settings.mqtt_cert_file:
                context.load_cert_chain(settings.mqtt_cert_file, settings.mqtt_key_file)
            self._client.tls_set_context(context)

    def _connect_options(self) -> dict[str, Any]:
        if not self._v5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = WINDOW
        # Larger ones the broker drops in silence, so that this leaves room to answer what is over the bound.
        properties.MaximumPacketSize = 4 * self._settings.max_body_bytes
        return {"clean_start": False, "properties": properties}

    def _tell(self, call: Callable[..., None], *values: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to hear
            self._loop.call_soon_threadsafe(call, *values)

    def _connack(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            slow = str(reason) in NOT_ALLOWED
            self._tell(self._over, self._error(f"the broker refused: {reason}", slow=slow))
        else:
            most = getattr(properties, "ReceiveMaximum", WINDOW)
            self._tell(self._welcome, getattr(properties, "MaximumPacketSize", None), most)

    def _suback(
        self, _client: Any, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if bad := [str(reason) for reason in reasons if reason.is_failure]:
            self._tell(self._over, self._error(f"the broker refused a subscription: {bad[0]}", slow=True))

    def _disconnected(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._tell(self._over, self._error(str(reason), slow=str(reason) == "Session taken over"))

    def _received(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        given = message.properties
        self._tell(
            self._on_message,
            Message(
                topic=message.topic,
                payload=bytes(message.payload),
                mid=message.mid if message.qos else 0,
                response_topic=getattr(given, "ResponseTopic", None),
                correlation=getattr(given, "CorrelationData", b""),
                expires_in=getattr(given, "MessageExpiryInterval", None),
                user=getattr(given, "UserProperty", ()),
            ),
        )

    def _published(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._tell(self._settle, mid, str(reason) if reason.is_failure else "")

    # On the event loop again.

    def _welcome(self, max_packet: int | None, most: int) -> None:
        self.max_packet, self.window = max_packet, min(WINDOW, most)
        if not self._connected.done():
            self._connected.set_result(None)

    def _settle(self, mid: int, refusal: str) -> None:
        self._unsent.discard(mid)
        key = self._sent.pop(mid, None)
        if key is not None:
            self._on_published(key, refusal)

    def _over(self, error: LinkError) -> None:
        if not self._ended.done():
            self._ended.set_result(error)
            self._client.disconnect()
