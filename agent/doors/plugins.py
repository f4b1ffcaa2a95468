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


class Doors:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._again: dict[str, asyncio.Event] = {}

    async def serve(self) -> None:
        """At all doors, until cancelled. Raises OSError, fit for a person, where HTTP cannot be served."""
        points = entry_points(group=GROUP)
        if NEEDED not in points.names:
            raise OSError("no door is installed: run `make install` (or pip install -e .) again")
        async with asyncio.TaskGroup() as group:
            for point in points:
                self._again[point.name] = asyncio.Event()
                group.create_task(self._serve(point))

    def restart(self, name: str) -> None:
        """Let one door close and open again, with the settings as they are now. Returns at once."""
        if again := self._again.get(name):
            again.set()

    async def _serve(self, point: EntryPoint) -> None:
        again = self._again[point.name]
        while True:
            async with asyncio.TaskGroup() as group:
                opened = group.create_task(self._open(point))
                await again.wait()
                again.clear()
                opened.cancel()
            self._node.doors.pop(point.name, None)

    async def _open(self, point: EntryPoint) -> None:
        try:
            door = await asyncio.to_thread(
                point.load
            )  # half of the agent's code: it comes beside the model's load
            await door(self._node)
        except Exception as error:
            if point.name == NEEDED:
                raise
            log.exception("a door failed", door=point.name)
            self._node.doors[point.name] = f"failed: {type(error).__name__}: {error}"
