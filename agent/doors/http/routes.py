"""`/v1/...`: OpenAI's routes."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from agent.access import Caller
from agent.doors.http.conversation import EventStream, WholeAnswer
from agent.doors.http.embeddings import EmbeddingAnswer
from agent.doors.http.errors import UnsupportedMedia, json_response
from agent.doors.http.schema import documented
from agent.doors.node_face import Node
from agent.doors.openai.answers import Answer, Stream
from agent.doors.openai.bodies import ChatBody, CompletionBody, EmbeddingBody
from agent.doors.openai.embeddings import check_dimensions, embedding
from agent.doors.openai.requests import new_id, read, requests
from agent.doors.openai.strict_json import LARGE
from agent.errors import Cancelled, ModelNotFound
from agent.offered import Offered

B = TypeVar("B", ChatBody, CompletionBody, EmbeddingBody)


def openai_routes(node: Node) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/chat/completions", **documented(ChatBody, "The answer, or its events with `stream`."))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, by the model's own chat template."""
        return _answer(node, await _read(request, ChatBody), request.state.caller)

    @router.post("/completions", **documented(CompletionBody, "The answer, or its events with `stream`."))
    async def completions(request: Request) -> Response:
        """Go on from a prompt, or from each of several."""
        return _answer(node, await _read(request, CompletionBody), request.state.caller)

    @router.post("/embeddings", **documented(EmbeddingBody, "A vector for each input."))
    async def embeddings(request: Request) -> Response:
        """Make a vector of a text, or of each of several."""
        body, caller = await _read(request, EmbeddingBody), request.state.caller
        name = _name(node, body.model or "")
        caller.needs_model(name)
        model = node.serving.find(name)
        check_dimensions(body, model)
        settings = node.settings.of(model.name) if model else node.settings
        asked = embedding(body, settings, model, sender=caller.sender)
        return EmbeddingAnswer(node.serving.embed(asked), body, name)

    @router.get("/models", **documented(None, "The models that this caller may use."))
    async def models(request: Request) -> Response:
        """List the models."""
        caller: Caller = request.state.caller
        shown = [_model(one) for one in node.serving.offered() if caller.may_use(one.name)]
        return json_response({"object": "list", "data": shown})

    @router.get("/models/{model:path}", **documented(None, "The model."))
    async def model(request: Request, model: str) -> Response:
        """Look at one model."""
        one = node.serving.find(model)
        if one and request.state.caller.may_use(one.name):
            return json_response(_model(one))
        raise ModelNotFound(f"The model '{model[:100]}' is not here.", param="model")

    return router


async def json_body(request: Request) -> bytes:
    """The body, where it is declared as JSON: a form on another site cannot do that without being asked."""
    declared = request.headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMedia("Send the body as 'Content-Type: application/json'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("Compressed bodies are not accepted.")
    try:
        return await request.body()
    except ClientDisconnect:
        raise Cancelled("The client went away in the middle of its request.") from None


async def _read(request: Request, kind: type[B]) -> B:
    data = await json_body(request)
    return await asyncio.to_thread(read, data, kind) if len(data) > LARGE else read(data, kind)


def _answer(node: Node, body: ChatBody | CompletionBody, caller: Caller) -> Response:
    name = _name(node, body.model or "")
    caller.needs_model(name)
    id = new_id(body)
    # What is not streamed nobody has seen yet: a Worker's death may begin it anew.
    asked = requests(body, node.settings, id=id, sender=caller.sender, durable=not body.stream)
    tickets = node.serving.submit_all(asked)

    def version() -> str:
        return tickets[0].version

    if body.stream:
        return EventStream(tickets, Stream(body, id=id, model=name, version=version))
    return WholeAnswer(tickets, Answer(body, id=id, model=name, version=version))


def _name(node: Node, asked: str) -> str:
    """The Model's own name, whatever form or default it was asked by."""
    found = node.serving.find(asked)
    return found.name if found else asked


def _model(one: Offered) -> dict[str, Any]:
    return {
        "id": one.name,
        "object": "model",
        "created": one.created,
        "owned_by": "autoglm",
        "version": one.version,
        "max_model_len": one.context if one.info else None,  # unknown until it is loaded
    }
