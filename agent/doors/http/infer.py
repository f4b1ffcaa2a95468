"""`POST /v2/models/{model}/infer`, beside FastAPI: its routing and validation cost four times the rest."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from agent.access import Caller
from agent.doors.http.errors import UnsupportedMedia, error_response
from agent.doors.inference_protocol.answer import write
from agent.doors.inference_protocol.request import HEADER_LENGTH, Wanted, header_length, read
from agent.doors.node_face import Node
from agent.doors.openai.strict_json import LARGE
from agent.errors import AgentError, BadRequest, Cancelled, ModelNotFound, TooLarge
from agent.tensor import Inference, Outputs
from agent.tensor_lane import TensorTicket

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_LENGTH = HEADER_LENGTH.lower().encode()


class InferRoute:
    """Answers that one route; passes everything else on."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app, self._node = app, node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"])
        if found is None or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        scope["route"] = self
        try:
            await self._infer(unquote(found[1]), found[2] or "", scope, receive, send)
        except AgentError as error:
            await error_response(error, scope["path"])(scope, receive, send)

    @property
    def path(self) -> str:
        """For the metrics."""
        return "/v2/models/{model}/infer"

    async def _infer(self, model: str, version: str, scope: Scope, receive: Receive, send: Send) -> None:
        name = f"{model}:{version}" if version else model
        caller: Caller = scope["state"]["caller"]
        offered = self._node.serving.find(name)
        if offered is None or not caller.may_use(offered.name):
            raise ModelNotFound(f"the model '{name[:100]}' is not on this node")
        asked, wanted = await self._read(name, caller, scope, receive)
        ticket = self._node.serving.infer(asked)
        outputs = await _outputs(ticket, scope["state"]["farewells"])
        about = {"model": offered.name, "version": ticket.version}
        if sum(len(tensor.data) for tensor in outputs.tensors) > LARGE:
            body, length = await asyncio.to_thread(write, outputs, wanted, **about)
        else:
            body, length = write(outputs, wanted, **about)
        await _respond(body, length, send)

    async def _read(
        self, model: str, caller: Caller, scope: Scope, receive: Receive
    ) -> tuple[Inference, Wanted]:
        headers = dict(scope["headers"])
        body = _plain(await _body(receive), headers, self._node.settings.max_body_bytes)
        length = headers.get(_LENGTH)
        size = None if length is None else header_length(length.decode("latin-1"))
        if (len(body) if size is None else size) > LARGE:
            return await asyncio.to_thread(read, body, size, model=model, sender=caller.sender)
        return read(body, size, model=model, sender=caller.sender)


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The client went away in the middle of its request.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _plain(body: bytes, headers: dict[bytes, bytes], most: int) -> bytes:
    """The body as it was before the client compressed it; bounded, since a few bytes can become very many."""
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise UnsupportedMedia("Content-Encoding may be gzip, deflate or identity.")
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16 if encoding == b"gzip" else zlib.MAX_WBITS)
    try:
        plain = reader.decompress(body, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding.decode()}: {error}") from None
    if len(plain) > most:
        raise TooLarge(f"The request's body is larger than {most} bytes.")
    if not reader.eof:
        raise BadRequest(f"the {encoding.decode()} body is cut")
    return plain


async def _outputs(ticket: TensorTicket, farewells: set[Callable[[], None]]) -> Outputs:
    """A client that goes away ends its Ticket."""
    farewells.add(ticket.cancel)
    try:
        return await ticket.only()
    finally:
        farewells.discard(ticket.cancel)
        ticket.cancel()


async def _respond(body: bytes, length: int | None, send: Send) -> None:
    kind = b"application/json" if length is None else b"application/octet-stream"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if length is not None:
        headers.append((_LENGTH, str(length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
