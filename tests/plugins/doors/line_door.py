"""A Door of somebody else's: a line of text in by TCP, the model's answer out. And doors that fail."""

from __future__ import annotations

import asyncio
import os
import secrets

from agent.doors.node_face import Node
from agent.errors import AgentError
from agent.request import Request


async def serve(node: Node) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            asked = Request(id=f"line-{secrets.token_hex(8)}", prompt=line.decode().strip(), sender="line")
            try:
                pieces = [chunk.text async for chunk in node.serving.submit(asked)]
            except AgentError as error:
                pieces = [f"error: {error}"]
            writer.write("".join(pieces).encode() + b"\n")

    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["LINE_DOOR_PORT"]))
    node.doors["line"] = "listening"
    async with server:
        await server.serve_forever()


async def fall(node: Node) -> None:
    raise RuntimeError("told to fall")


async def unwanted(node: Node) -> None:
    """The settings do not want it."""
