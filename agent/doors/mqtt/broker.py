"""The embedded broker (`AUTOGLM_MQTT_URL=embedded`): rumqttd, by iotcore, on loopback only.

It runs in a child process, which ends when the agent does, however that ends. What a broker keeps (sessions,
retained messages, what waits for receivers) is in its memory and goes with it. MQTT 3.1.1 has a port, MQTT 5
the next.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agent.config import Settings

_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 256
max_outgoing_packet_count = 200
max_segment_size = {segment}
max_segment_count = 4

[v4.1]
name = "mqtt-3.1.1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = 100

[v5.1]
name = "mqtt-5"
listen = "127.0.0.1:{next_port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = 100
"""


class BrokerError(Exception):
    """The broker does not run: its port is taken, or it ended at once."""


class EmbeddedBroker:
    """`ensure` starts it, and again where it died; `stop` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker: Any = None

    @property
    def url(self) -> str:
        """Where an agent of these settings connects."""
        port = self._settings.embedded_port
        return f"mqtt://127.0.0.1:{port + 1 if self._settings.mqtt_version == '5' else port}"

    async def ensure(self) -> None:
        """Raises BrokerError."""
        if self._broker is None or not self._broker.is_running:
            self._broker = await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        if self._broker is not None:
            await asyncio.to_thread(self._broker.stop)

    def _start(self) -> Any:
        try:
            from iotcore import Broker  # no wheel for every platform
        except ImportError as error:
            raise BrokerError("no embedded broker for this platform: set AUTOGLM_MQTT_URL") from error
        port, size = self._settings.embedded_port, self._settings.max_body_bytes
        config = self._settings.data_dir / "broker.toml"
        config.write_text(
            _CONFIG.format(port=port, next_port=port + 1, payload=size + 65536, segment=2 * size)
        )
        broker = Broker(config_path=str(config))
        try:
            return broker.start()
        except (OSError, RuntimeError) as error:
            raise BrokerError(f"no embedded broker: {error}{self._hint(error)}") from error

    def _hint(self, error: Exception) -> str:
        if not isinstance(error, OSError):
            return ""
        there = f"mqtt://127.0.0.1:{self._settings.embedded_port}"
        return f"; set AUTOGLM_EMBEDDED_PORT, or AUTOGLM_MQTT_URL={there} to use the broker that is there"
