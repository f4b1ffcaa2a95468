"""Changes of what is loaded: one at a time, and each as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import structlog

from agent.errors import Unavailable

log = structlog.get_logger()

T = TypeVar("T")


class Changes:
    """One at a time, since what one load needs of the memory must not be promised to another."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """From now on `whole` may be called."""
        self._tasks = tasks

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing else changes inside."""
        return self._lock

    async def whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Carry a change out, alone. It goes on where the caller is cancelled: half of it would be worse."""
        if self._tasks is None:
            raise RuntimeError("begin() was not called")
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                async with self._lock:
                    outcome.set_result(await work())
            except Exception as error:  # noqa: BLE001 - the caller's, if it is still there
                log.warning("a change failed", error=str(error))
                outcome.set_exception(error)
                outcome.exception()  # it was told of: nobody has to ask
            finally:
                outcome.cancel()  # where the agent ends before it

        work_runs = run()
        try:
            self._tasks.create_task(work_runs)
        except RuntimeError:  # the group has ended
            work_runs.close()
            raise Unavailable("the agent is stopping", retry_after=5) from None
        return await asyncio.shield(outcome)
