"""What a stream sends when there is nothing to say, and what nobody may learn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Message

from agent.config import Settings
from agent.doors.http.conversation import EventStream
from agent.doors.http.door import create_app
from agent.doors.http.guard import Guard
from agent.doors.openai.answers import Stream
from agent.doors.openai.bodies import ChatBody
from agent.doors.openai.requests import read
from agent.errors import Overloaded
from agent.request import Chunk, Request
from agent.telemetry import Telemetry
from agent.ticket import Ticket

BODY = read(b'{"messages": [{"role": "user", "content": "x"}], "stream": true}', ChatBody)


class Wire:
    """The server's side of ASGI: keeps what was sent; the client goes when told."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.pinged = asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message.get("body") == b": ping\n\n":
            self.pinged.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def ticket() -> Ticket:
    return Ticket(Request(id="x", prompt="x"), lambda _: None)


async def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    wire, one = Wire(), ticket()
    response = EventStream([one], Stream(BODY, id="x", model="m", version=lambda: "v"), ping_s=0.01)
    async with asyncio.TaskGroup() as group:
        group.create_task(response({"type": "http"}, wire.receive, wire.send))
        await asyncio.sleep(0.05)
        assert wire.sent == []  # before the first Chunk the status is still open
        one.put(Chunk(0, "a", 1))
        await wire.pinged.wait()
        one.put(Chunk(0, "b", 1, finish="stop"))
        one.end()
    assert wire.text.endswith("data: [DONE]\n\n")
    assert wire.sent[-1]["more_body"] is False


async def test_an_error_before_the_first_chunk_is_no_stream() -> None:
    wire, one = Wire(), ticket()
    one.end(Overloaded("full"))
    with pytest.raises(Overloaded):
        await EventStream([one], Stream(BODY, id="x", model="m", version=lambda: "v"))(
            {"type": "http"}, wire.receive, wire.send
        )
    assert wire.sent == []


async def test_a_client_that_goes_ends_every_ticket() -> None:
    wire, tickets = Wire(), [ticket(), ticket()]
    tickets[0].put(Chunk(0, "a", 1))
    wire.gone.set()
    await EventStream(tickets, Stream(BODY, id="x", model="m", version=lambda: "v"))(
        {"type": "http"}, wire.receive, wire.send
    )
    assert all(one.ended for one in tickets)


class BrokenNode:
    """A node with a mistake in it."""

    settings = Settings.model_construct(
        api_keys=[], allowed_hosts=[], http_host="127.0.0.1", max_body_bytes=9
    )
    telemetry = Telemetry()
    serving: Any = None
    shelf: Any = None

    def status(self) -> dict[str, Any]:
        raise RuntimeError("the secret of line 7")

    async def pull(self, source: str, name: str | None) -> Any:
        yield {}


async def test_a_mistake_in_the_node_shows_no_trace_of_it() -> None:
    node = BrokenNode()
    app = Guard(create_app(node), node.settings, node.telemetry, None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/status")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "secret" not in json.dumps(answer.json())
