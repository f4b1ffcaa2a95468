"""Idempotency keys: a change that is asked for again, since its answer was lost, is not made again.

As the IETF's draft-ietf-httpapi-idempotency-key-header says: the same key with the same request has the
stored answer, with another request 422, and 409 while the first is under way. Answers are kept for a day.
What was refused changed nothing, and may be tried again with the same key.

Answers hold secrets (a join token), so they are encrypted with the key, which only the caller knows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cryptography.fernet import Fernet
from fastapi import Request
from fastapi.routing import APIRoute
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from cloud_sync.controller.errors import Conflict, Invalid, Refused
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.answers import StoredAnswer

HEADER = "idempotency-key"
KEPT_S = 86400.0
UNDER_WAY_S = 60.0  # longer than any change takes: whoever made it died
_KEY = re.compile(r'"?([\x21\x23-\x7e]{8,255})"?')  # a structured field's string, or the bare value
Handler = Callable[[Request], Awaitable[Response]]


class Answers:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def once(self, actor: str, key: str, request: Request, handle: Handler) -> Response:
        """What `handle` answers, now or the first time. Refused."""
        if not (found := _KEY.fullmatch(key)):
            raise Refused("bad_key", "an Idempotency-Key has 8 to 255 visible ASCII characters, no quotes")
        secret = found[1].encode()
        id = hashlib.sha256(actor.encode() + b"\0" + secret).hexdigest()
        before = await self._claim(id, await _digest(secret, request))
        if before is not None:
            body = _cipher(secret).decrypt(before.body.encode())
            kind = "application/json" if body else None
            return Response(body, before.status or 200, {"idempotency-replayed": "true"}, kind)
        try:
            response = await handle(request)
        except Exception:
            await self._forget(id)
            raise
        async with self._store.write() as session:
            row = await session.get_one(StoredAnswer, id)
            row.status = response.status_code
            row.body = _cipher(secret).encrypt(bytes(response.body)).decode()
        return response

    async def sweep(self) -> None:
        async with self._store.write() as session:
            await session.execute(delete(StoredAnswer).where(StoredAnswer.at < self._store.now() - KEPT_S))

    async def _claim(self, id: str, request: str) -> StoredAnswer | None:
        """The answer that was given before; None: it is for the caller to make. Invalid, Conflict."""
        try:
            async with self._store.write() as session:
                now = self._store.now()
                row = await session.get(StoredAnswer, id, with_for_update=True)
                if row is not None and row.at < now - KEPT_S:
                    await session.delete(row)
                    await session.flush()
                    row = None
                if row is None:
                    session.add(StoredAnswer(id=id, request=request, at=now, status=None, body=""))
                    return None
                if not hmac.compare_digest(row.request, request):
                    raise Invalid("key_reused", "this Idempotency-Key came with another request before")
                if row.status is not None:
                    return row
                if row.at > now - UNDER_WAY_S:
                    raise Conflict("under_way", "the first request with this Idempotency-Key is under way")
                row.at = now
                return None
        except IntegrityError:  # another came in between
            raise Conflict("under_way", "the first request with this Idempotency-Key is under way") from None

    async def _forget(self, id: str) -> None:
        async with self._store.write() as session:
            await session.execute(delete(StoredAnswer).where(StoredAnswer.id == id))


class AnsweredOnce(APIRoute):
    """A route of operators: changes that come with an Idempotency-Key are made once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def once(request: Request) -> Response:
            key = request.headers.get(HEADER)
            if key is None or request.method == "GET":
                return await handle(request)
            actor = await request.app.state.access.operator(request, "viewer")
            answers: Answers = request.app.state.answers
            return await answers.once(actor.name, key, request, handle)

        return once


async def _digest(secret: bytes, request: Request) -> str:
    path = request.url.path + "?" + request.url.query
    said = f"{request.method} {path}\n".encode() + await request.body()
    return hmac.new(secret, said, "sha256").hexdigest()


def _cipher(secret: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"answer\0" + secret).digest()))
