"""Passwords as Argon2 digests. One costs a tenth of a second and 64 MB: few at once, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloud_sync.controller.errors import TooMany

AT_ONCE = 2
WAITING = 32  # beyond, callers are told to come again
_hasher = PasswordHasher()

T = TypeVar("T")


class Passwords:
    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._nobodys = ""

    async def digest(self, password: str) -> str:
        """TooMany."""
        return await self._run(_hasher.hash, password)

    async def matches(self, digest: str | None, password: str) -> bool:
        """None: there is no such account, which takes as long to say. TooMany."""
        if digest is None and not self._nobodys:
            self._nobodys = await self.digest("nobody's")
        right = await self._run(_matches, digest or self._nobodys, password)
        return right and digest is not None

    async def _run(self, work: Callable[..., T], *given: str) -> T:
        if self._waiting >= WAITING:
            raise TooMany("busy", "too many logins at once", retry_after=1)
        self._waiting += 1
        try:
            async with self._room:
                return await asyncio.to_thread(work, *given)
        finally:
            self._waiting -= 1


def _matches(digest: str, password: str) -> bool:
    try:
        return _hasher.verify(digest, password)
    except (VerificationError, InvalidHashError):
        return False
