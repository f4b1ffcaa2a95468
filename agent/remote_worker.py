"""The Worker of a Model that another server runs: an asyncio loop that passes Requests on and answers back.

Its heartbeat is the loop's own. While that server is away the Worker lives on: it says so in each heartbeat,
refuses what comes at once, and looks every second whether the server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from agent.engines.engine import EngineError, EngineInfo, TensorInfo
from agent.errors import AgentError, DeadlineExceeded, InternalError, Unavailable
from agent.frames import (
    MOST_TOGETHER,
    Answered,
    Beat,
    Cancel,
    Infer,
    Loading,
    Ran,
    Reader,
    Ready,
    Said,
    Start,
    Stop,
    TensorsReady,
    ToAgent,
    ToWorker,
    encode,
    size_of,
)
from agent.request import Chunk
from agent.tensor import Tensor

IDLE_BEAT = 0.5  # seconds
LOOK_S = 10.0  # how often an idle server is looked at
AWAY_S = 1.0  # how often one that is away is

Info = TypeVar("Info", EngineInfo, TensorInfo, covariant=True)


class Server(Protocol[Info]):
    """What is there. Every call comes from one loop and may be cancelled, which ends it there too."""

    @property
    def concurrency(self) -> int:
        """How many Requests it may have at once."""

    async def look(self) -> Info:
        """What it says of the Model. AgentError: it is away, or cannot answer for it."""

    async def close(self) -> None: ...


class TextServer(Server[EngineInfo], Protocol):
    async def answer(self, asked: Start, say: Callable[[Chunk], None]) -> None:
        """Say all Chunks, as they come. AgentError: it failed, perhaps in the middle."""


class TensorServer(Server[TensorInfo], Protocol):
    async def infer(self, asked: Infer) -> tuple[Tensor, ...]:
        """AgentError: it failed."""


class _RemoteWorker(ABC):
    def __init__(self, server: Server[Any]) -> None:
        self._server = server
        self._room = asyncio.Semaphore(server.concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = 0
        self._news = asyncio.Event()
        self._doubt = asyncio.Event()  # whether the server is still there
        self._trouble = ""

    def serve(self, link: socket.socket) -> None:
        """Until the agent says stop, or ends. EngineError: the server cannot be had to begin with."""
        link.setblocking(False)
        asyncio.run(self._serve(link))

    async def _serve(self, link: socket.socket) -> None:
        try:
            try:
                ready = self._ready(await self._server.look())
            except AgentError as error:
                raise EngineError(error.message) from None
            await asyncio.get_running_loop().sock_sendall(link, encode(Loading(1.0)) + encode(ready))
            async with asyncio.TaskGroup() as group:
                beats = group.create_task(self._beat(link))
                looks = group.create_task(self._look_after())
                await self._hear(link, group)
                for task in (beats, looks, *self._tasks.values()):
                    task.cancel()
        finally:
            await self._server.close()

    async def _hear(self, link: socket.socket, group: asyncio.TaskGroup) -> None:
        reader = Reader(ToWorker)
        while data := await self._receive(link):
            for frame in reader.feed(data):
                match frame:
                    case Start() | Infer():
                        self._tasks[frame.id] = group.create_task(self._take(frame))
                    case Cancel():  # the same id may come again at once
                        if task := self._tasks.pop(frame.id, None):
                            task.cancel()
                    case Stop():
                        return

    async def _receive(self, link: socket.socket) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(link, 1 << 20)
        except ConnectionResetError:
            return b""

    async def _beat(self, link: socket.socket) -> None:
        """What has happened, as soon as it has; and at least each half second that the loop lives."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_hear` finds out
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_BEAT):
                        await self._news.wait()
                self._news.clear()
                await asyncio.get_running_loop().sock_sendall(link, encode(self._frame()))

    async def _look_after(self) -> None:
        """A busy server is not asked whether it lives, unless there is doubt: its answers tell."""
        while True:
            if not self._trouble:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._doubt.wait()
                if self._tasks and not self._doubt.is_set():
                    continue
            self._doubt.clear()
            trouble = await self._look()
            if trouble != self._trouble:
                self._trouble = trouble
                self._news.set()
            await asyncio.sleep(AWAY_S)  # however many Requests fail meanwhile

    async def _look(self) -> str:
        """Why the server cannot answer now; "" if it can."""
        try:
            await self._server.look()
        except DeadlineExceeded as error:  # some servers answer nobody else while they compute
            return "" if self._tasks else error.message
        except AgentError as error:
            return error.message
        return ""

    # One Request.

    async def _take(self, asked: Start | Infer) -> None:
        try:
            if self._trouble:
                raise Unavailable(self._trouble, retry_after=AWAY_S)
            async with asyncio.timeout_at(asked.deadline), self._room:
                self._running += 1
                try:
                    await self._pass_on(asked)
                finally:
                    self._running -= 1
        except TimeoutError:
            self._refuse(asked.id, DeadlineExceeded("the deadline has passed"))
        except AgentError as error:
            if isinstance(error, Unavailable | DeadlineExceeded):
                self._doubt.set()
            self._refuse(asked.id, error)
        except Exception:  # noqa: BLE001 - one Request's mistake must not end the others
            traceback.print_exc(file=sys.stderr)
            self._refuse(asked.id, InternalError("its answer could not be passed on"))
        finally:
            if self._tasks.get(asked.id) is asyncio.current_task():
                del self._tasks[asked.id]
            self._news.set()

    # What differs between text and tensors.

    @abstractmethod
    def _ready(self, info: Any) -> ToAgent: ...

    @abstractmethod
    def _frame(self) -> ToAgent:
        """What is new since the last one."""

    @abstractmethod
    async def _pass_on(self, asked: Any) -> None:
        """AgentError."""

    @abstractmethod
    def _refuse(self, id: str, error: AgentError) -> None: ...


class RemoteTextWorker(_RemoteWorker):
    """Tokens in its heartbeat are those that the server tells of."""

    def __init__(self, server: TextServer) -> None:
        super().__init__(server)
        self._text = server
        self._said: deque[tuple[Said, int]] = deque()  # with its bytes
        self._prompt_tokens = self._generated = self._cached = self._embedded = 0

    def _ready(self, info: EngineInfo) -> Ready:
        return Ready(info)

    def _frame(self) -> Beat:
        said: list[Said] = []
        room = MOST_TOGETHER
        while self._said and (not said or self._said[0][1] <= room):
            one, its = self._said.popleft()
            said.append(one)
            room -= its
        if self._said:
            self._news.set()
        return Beat(
            said=said,
            running=self._running,
            waiting=len(self._tasks) - self._running,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            cached_tokens=self._cached,
            embedded=self._embedded,
            trouble=self._trouble,
        )

    async def _pass_on(self, asked: Start) -> None:
        await self._text.answer(asked, lambda chunk: self._say(asked.id, chunk))
        self._embedded += (len(asked.texts) or 1) if asked.embed else 0

    def _say(self, id: str, chunk: Chunk) -> None:
        self._add(Said(id, chunk))
        self._generated += chunk.tokens
        if usage := chunk.usage:
            self._prompt_tokens += usage.prompt_tokens - usage.cached_tokens
            self._cached += usage.cached_tokens
        self._news.set()

    def _refuse(self, id: str, error: AgentError) -> None:
        self._add(Said(id, None, error.code, error.message, error.retry_after))

    def _add(self, said: Said) -> None:
        self._said.append((said, size_of(said)))


class RemoteTensorWorker(_RemoteWorker):
    """Nothing is batched here: the server does that."""

    def __init__(self, server: TensorServer) -> None:
        super().__init__(server)
        self._tensors = server
        self._answered: deque[Answered] = deque()
        self._last = 0.0

    def _ready(self, info: TensorInfo) -> TensorsReady:
        return TensorsReady(info)

    def _frame(self) -> Ran:
        answered: list[Answered] = []
        size = 0
        while self._answered:
            its = sum(len(tensor.data) for tensor in self._answered[0].outputs or ())
            if answered and size + its > MOST_TOGETHER:
                break
            answered.append(self._answered.popleft())
            size += its
        if self._answered:
            self._news.set()
        good = sum(one.outputs is not None for one in answered)
        return Ran(answered, good, self._last, len(self._tasks) - self._running, self._trouble)

    async def _pass_on(self, asked: Infer) -> None:
        begun = time.monotonic()
        outputs = await self._tensors.infer(asked)
        self._last = time.monotonic() - begun
        self._answered.append(Answered(asked.id, outputs))

    def _refuse(self, id: str, error: AgentError) -> None:
        self._answered.append(Answered(id, None, error.code, error.message, error.retry_after))
