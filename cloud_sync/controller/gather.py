"""Group commit: what comes within milliseconds, or while a transaction is under way, shares the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

GATHER_S = 0.02
MOST = 500  # in one transaction

_AWAY = (OperationalError, InterfaceError, OSError)  # the database, for all alike

T = TypeVar("T")
A = TypeVar("A")


class Gather(Generic[T, A]):
    """`commit` takes a group and gives an answer for each, once all of it is committed.

    An answer that is an exception is raised to the one that it is for. Where a group cannot be kept,
    each is tried alone, so that one spoils no other.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._commit = commit
        self._waiting: list[tuple[T, asyncio.Future[A]]] = []
        self._work: asyncio.Task[None] | None = None

    async def add(self, one: T) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            await asyncio.sleep(GATHER_S)
            while self._waiting:
                group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._settle(group)
        finally:
            self._work = None

    async def _settle(self, group: Sequence[tuple[T, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._commit([one for one, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to those who wait
            if len(group) > 1 and not isinstance(error, _AWAY):
                for alone in group:
                    await self._settle([alone])
                return
            answers = [error] * len(group)
        except asyncio.CancelledError:
            for _, waiting in group:
                waiting.cancel()
            raise
        for (_, waiting), answer in zip(group, answers, strict=True):
            if waiting.done():  # who asked is gone
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
