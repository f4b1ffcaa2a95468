"""The agent's receipt for a Request: async-iterable, cancellable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

from agent.errors import AgentError, Cancelled


class Asked(Protocol):
    """What a Ticket is for: a Request, or an Inference."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Asked)
C = TypeVar("C")


class Tap(Protocol):
    """Hears what the Ticket's reader will."""

    def put(self, chunk: Any) -> None: ...
    def end(self, error: AgentError | None) -> None: ...


class Ticket(Generic[R, C]):
    """Iterate it for the Chunks; iteration raises the AgentError that ended the Request.

    One reader. What is not yet read waits here; a Request's `max_tokens` bounds it.
    """

    def __init__(
        self, request: R, on_cancel: Callable[[Ticket[R, C]], None], model: str = "", version: str = ""
    ) -> None:
        self.request = request
        self.model = model  # that answers, where the Request named none
        self.version = version  # of it
        self.id = request.id
        self.tap: Tap | None = None
        self.deaths = 0  # Workers that died while they had this Request
        self._on_cancel = on_cancel
        self._waiting: deque[C] = deque()
        self._end: AgentError | None = None
        self._ended = False
        self._news: asyncio.Future[None] | None = None  # somebody waits for it

    @property
    def ended(self) -> bool:
        return self._ended

    def cancel(self) -> None:
        """The caller is gone. The Sequence is freed at the next step; iteration raises Cancelled."""
        if not self._ended:
            self.end(Cancelled("the request was cancelled"))
            self._on_cancel(self)

    async def __aiter__(self) -> AsyncIterator[C]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._ended:
                if self._end is not None:
                    raise self._end
                return
            await self._more()

    async def only(self) -> C:
        """The one that comes. Raises the AgentError that ended the Request."""
        while not self._waiting:
            if self._ended:
                raise self._end or Cancelled("it ended without an answer")
            await self._more()
        return self._waiting.popleft()

    async def _more(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def put(self, chunk: C) -> None:
        """Serving's side: a Chunk came."""
        self._waiting.append(chunk)
        if self.tap:
            self.tap.put(chunk)
        self._tell()

    def moved(self, on_cancel: Callable[[Ticket[R, C]], None], version: str) -> None:
        """Serving's side: another Version, or another Worker, goes on with it."""
        self._on_cancel, self.version = on_cancel, version

    def end(self, error: AgentError | None = None) -> None:
        """Serving's side: nothing follows."""
        self._end = error
        self._ended = True
        self._tell()
        if self.tap:
            self.tap.end(error)
