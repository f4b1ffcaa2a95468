"""The MQTT door: prompts in, results out, through a broker and the node's database."""

from __future__ import annotations

import asyncio
import importlib

from agent.doors.node_face import Node


async def serve(node: Node) -> None:
    """Until cancelled; returns at once where no broker is named. What it needs is loaded only where it is."""
    if node.settings.mqtt_url:
        door = await asyncio.to_thread(importlib.import_module, "agent.doors.mqtt.door")
        await door.serve(node)
