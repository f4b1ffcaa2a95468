"""Notices by MQTT 5 at QoS 1, under `autoglm/v1/fleet/events/{node}`."""

from __future__ import annotations

import asyncio
import secrets

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion

from cloud_sync.controller.notices.notice import NotDelivered, Notice
from cloud_sync.tunnel.broker import KEEPALIVE_S, Place

TOPIC = "autoglm/v1/fleet/events"
ACK_S = 10.0


class Publisher:
    """One connection, made when it is needed; after a failure another, so that nothing is sent behind us."""

    def __init__(self, url: str) -> None:
        self._place = Place(url)
        self._client: paho.Client | None = None

    async def publish(self, notice: Notice) -> None:
        """Until the broker has it. NotDelivered."""
        await asyncio.to_thread(self._publish, notice)

    def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.disconnect()
            client.loop_stop()

    def _publish(self, notice: Notice) -> None:
        try:
            client = self._client = self._client or self._connected()
            topic = TOPIC if notice.node is None else f"{TOPIC}/{notice.node}"
            sent = client.publish(topic, notice.body, qos=1)
            sent.wait_for_publish(ACK_S)
            if not sent.is_published():
                raise NotDelivered(f"the broker took it not within {ACK_S:.0f} s")
        except (OSError, ValueError, RuntimeError, MQTTException) as error:
            self.close()
            raise NotDelivered(str(error) or type(error).__name__) from error
        except NotDelivered:
            self.close()
            raise

    def _connected(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"autoglm-controller-{secrets.token_hex(4)}",
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._place.connect(client, KEEPALIVE_S)
        client.loop_start()
        return client
