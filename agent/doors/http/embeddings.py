"""From an Embedding's Ticket to the bytes of its answer."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.doors.http.conversation import follow
from agent.doors.openai.bodies import EmbeddingBody
from agent.doors.openai.embeddings import answer
from agent.embedding import EmbeddingTicket


class EmbeddingAnswer(Response):
    """All vectors, when all are there."""

    def __init__(self, ticket: EmbeddingTicket, body: EmbeddingBody, model: str) -> None:
        super().__init__()
        self._ticket, self._body, self._model = ticket, body, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with follow([self._ticket], receive):
            embedded = await self._ticket.only()
            # Hundreds of thousands of numbers to write: not on the loop.
            said = await asyncio.to_thread(answer, embedded, self._body, self._model)
        await Response(said, media_type="application/json")(scope, receive, send)
