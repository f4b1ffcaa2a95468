"""The doors that are installed, whoever wrote them: each is an entry point of `openautoglm.doors`.

An entry point names a coroutine function `serve(node)`; `node_face.Node` is what it may ask for. It serves
until it is cancelled, and returns at once where the settings do not want it. One that fails takes no other
with it.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint, entry_points

import structlog

from agent.doors.node_face import Node

GROUP = "openautoglm.doors"
NEEDED = "http"
"""Without it nobody could ask the agent how it is: its failure ends the agent."""

log = structlog.get_logger()


async def serve(node: Node) -> None:
    """At all doors, until cancelled. Raises OSError, fit for a person, where HTTP cannot be served."""
    points = entry_points(group=GROUP)
    if NEEDED not in points.names:
        raise OSError("no door is installed: run `make install` (or pip install -e .) again")
    async with asyncio.TaskGroup() as group:
        for point in points:
            group.create_task(_serve(point, node))


async def _serve(point: EntryPoint, node: Node) -> None:
    try:
        door = await asyncio.to_thread(
            point.load
        )  # half of the agent's code: it comes beside the model's load
        await door(node)
    except Exception as error:
        if point.name == NEEDED:
            raise
        log.exception("a door failed", door=point.name)
        node.doors[point.name] = f"failed: {type(error).__name__}: {error}"
