"""Shadows: a canary answers copies of what the stable Version answered. Compared, counted, never returned.

A copy waits until nobody else has anything to do, and gives way at once when somebody has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

import structlog

from agent.errors import AgentError
from agent.likeness import likeness
from agent.request import Request
from agent.route import Live, Route
from agent.telemetry import ModelTelemetry, Telemetry
from agent.tensor import Inference
from agent.tensor_lane import TensorLane
from agent.text_lane import TextLane
from agent.ticket import Ticket

log = structlog.get_logger()

MOST_WAIT = 32  # copies that wait for a quiet moment
MOST_BYTES = 32 * 1024 * 1024  # that they hold
PATIENCE_S = 30.0  # how long a copy waits for it
LOOK_S = 0.02  # how often is looked whether somebody has something to do
AGREES = 0.99  # likeness from which two answers count as the same

AnyTicket = Ticket[Any, Any]


@dataclass(slots=True, eq=False)
class _Copy:
    """What was asked of the stable Version, and what it answers."""

    route: Route
    shadow: Live
    asked: Request | Inference
    put_off: Callable[[_Copy, AgentError | None], None]
    answer: list[Any] = field(default_factory=list)

    def put(self, chunk: Any) -> None:
        self.answer.append(chunk)

    def end(self, error: AgentError | None) -> None:
        self.put_off(self, error)

    @property
    def lives(self) -> bool:
        """Whether the shadow still is one."""
        return self.shadow.shadow and self.shadow in self.route.canaries

    @property
    def bytes(self) -> int:
        """That it holds, about."""
        if isinstance(self.asked, Inference):
            outputs = (tensor for one in self.answer for tensor in one.tensors)
            return sum(len(tensor.data) for tensor in (*self.asked.inputs, *outputs))
        prompt = sum(len(str(message)) for message in self.asked.messages or ())
        return prompt + len(self.asked.prompt or "") + sum(len(chunk.text) for chunk in self.answer)


class Shadow:
    """`busy` tells whether anybody but shadows has something to do."""

    def __init__(self, telemetry: Telemetry, busy: Callable[[], bool]) -> None:
        self._telemetry = telemetry
        self._busy = busy
        self._copies: deque[_Copy] = deque()
        self._news = asyncio.Event()

    def follow(self, route: Route, ticket: AnyTicket) -> None:
        """Let the Model's shadow, if it has one, answer this as well, once it has been answered."""
        shadow = next((one for one in route.canaries if one.shadow), None)
        if shadow is not None and ticket.version == route.stable.model.version:
            ticket.tap = _Copy(route, shadow, ticket.request, self._answered)

    async def run(self) -> None:
        while True:
            while not self._copies:
                self._news.clear()
                await self._news.wait()
            copy = self._copies.popleft()
            try:
                outcome = await self._ask(copy)
            except Exception as error:  # one copy's mistake must not end the shadows
                log.exception("a copy could not be compared", model=copy.shadow.model.name, error=str(error))
                outcome = "error"
            if copy.lives:
                self._count(copy, outcome)

    def _answered(self, copy: _Copy, error: AgentError | None) -> None:
        if error is not None:
            return
        held = sum(one.bytes for one in self._copies) + copy.bytes
        if len(self._copies) >= MOST_WAIT or held > MOST_BYTES:
            self._count(copy, "skipped")
        else:
            self._copies.append(copy)
            self._news.set()

    async def _ask(self, copy: _Copy) -> str:
        """How it went: "agree", "differ", "error", or "skipped": the node was busy."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while copy.lives and not self._may_run(copy):  # noqa: ASYNC110 - quiet is no event: anybody may end it
                    await asyncio.sleep(LOOK_S)
        if not self._may_run(copy):
            return "skipped"
        try:
            ticket = _submit(copy.shadow.lane(), copy.asked)
            answer = await self._alone(copy, ticket)
        except AgentError:
            return "error"
        if answer is None:
            return "skipped"
        if ticket.version != copy.shadow.model.version:  # its Worker died, and another one answered
            return "error"
        like = await asyncio.to_thread(likeness, copy.answer, answer)
        self._metrics(copy).likeness.observe(like)
        return "agree" if like >= AGREES else "differ"

    def _may_run(self, copy: _Copy) -> bool:
        return copy.lives and copy.shadow.ready()[0] and not copy.shadow.load and not self._busy()

    async def _alone(self, copy: _Copy, ticket: AnyTicket) -> list[Any] | None:
        """The answer; None: somebody came, and the copy gave way. Raises AgentError."""

        async def gather() -> list[Any]:
            return [chunk async for chunk in ticket]

        gathering = asyncio.ensure_future(gather())
        try:
            while not gathering.done():
                if self._busy() or copy.shadow.load > 1:
                    return None
                await asyncio.wait({gathering}, timeout=LOOK_S)
            return gathering.result()
        finally:
            ticket.cancel()
            gathering.cancel()
            await asyncio.wait({gathering})

    def _count(self, copy: _Copy, outcome: str) -> None:
        copy.shadow.compared[outcome] += 1
        self._metrics(copy).shadowed(outcome)

    def _metrics(self, copy: _Copy) -> ModelTelemetry:
        return self._telemetry.model(copy.shadow.model.name, copy.shadow.model.version)


def _submit(lane: TextLane | TensorLane, asked: Request | Inference) -> AnyTicket:
    changed: dict[str, Any] = {"id": f"shadow-{token_hex(8)}", "priority": 0, "sender": "local"}
    changed |= {"deadline": None, "keep_alive": None}
    if isinstance(asked, Request) and isinstance(lane, TextLane):
        [ticket] = lane.admit([replace(asked, durable=False, patient=False, **changed)])
        return ticket
    assert isinstance(asked, Inference) and isinstance(lane, TensorLane)  # noqa: S101, PT018 - of one Model
    return lane.infer(replace(asked, **changed))
