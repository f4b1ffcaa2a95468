"""A Version's way from admission to a Worker: the queue, what the Worker has, and the Worker's death."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from agent.admission import FairQueue
from agent.base_lane import BaseLane
from agent.config import Settings
from agent.engines.engine import EngineInfo
from agent.errors import (
    AgentError,
    BadRequest,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    Unavailable,
    WorkerLost,
)
from agent.frames import Beat, Cancel
from agent.inflight import InFlight
from agent.job import LIVES, Job, TextTicket, check, check_size, cost
from agent.limits import Limits
from agent.offered import Offered
from agent.request import Request
from agent.supervisor import State
from agent.telemetry import ModelTelemetry
from agent.templates import Templates
from agent.ticket import Ticket

log = structlog.get_logger()

LOOKAHEAD = 4  # Sequences that the Worker has beyond its slots: a freed one is taken in the very next step
SWEEP_S = 0.25  # how often the queue is looked through for passed deadlines


class TextLane(BaseLane):
    """`admit` for serving; `worker_*` for the supervisor; the rest for the resident."""

    def __init__(
        self,
        model: Offered,
        settings: Settings,
        telemetry: ModelTelemetry,
        templates: Templates,
        limits: Limits,
        on_use: Callable[[TextLane, float | None], None],
        elsewhere: Callable[[TextLane], TextLane | None],
    ) -> None:
        super().__init__(model, settings, telemetry, limits, on_use, elsewhere)
        self._templates = templates
        self._in_hand: Job | None = None  # out of the queue, not yet the Worker's
        self._queue: FairQueue[Job] = FairQueue()
        self._working = InFlight(telemetry, self._limits)
        self._wake = asyncio.Event()
        self._beat = Beat()

    # What serving calls.

    def admit(self, requests: list[Request]) -> list[TextTicket]:
        """Take in the Requests of one body, all or none. Raises BadRequest, Unavailable or Overloaded."""
        now = time.monotonic()
        self._check_health()
        for request in requests:
            check(request, self.model, self._settings)
        sender, tokens = requests[0].sender, sum(cost(one, self.model) for one in requests)
        counted = 1 if requests[0].embed else len(requests)  # an embedding is one, of however many texts
        self._limits.check(sender, counted, tokens, now)  # before others make room for it
        self._make_room(sender, len(requests), tokens)
        self._limits.charge(sender, counted, tokens, now)
        jobs = [self._job(request, now) for request in requests]
        for job in jobs:
            self._queue.push(job.entry())
        self._wake.set()
        self._on_use(self, requests[0].keep_alive)
        return [job.ticket for job in jobs]

    def has(self, request: str) -> bool:
        """Whether a Request of this id waits or runs here."""
        return request in self._working or any(job.ticket.id == request for job in self._waiting())

    def status(self) -> dict[str, Any]:
        beat, queue, runs = self._beat, self._queue, len(self._working)
        there = {"running": beat.running, "waiting": beat.waiting}
        return self._status(len(queue), queue.tokens, runs, there, beat.kv_used)

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return len(self._queue) + len(self._working) + (self._in_hand is not None)

    # What the supervisor tells.

    def worker_ready(self, info: EngineInfo) -> None:
        self._beat = Beat()
        self.model = replace(self.model, info=info)
        self._wake.set()

    def worker_said(self, beat: Beat) -> None:
        self._telemetry.heard(self, self._beat, beat)
        self._beat = beat
        self.embeds = beat.embedded > 0
        self._heard(beat.trouble)
        for said in beat.said:
            self._working.hear(said)
        if beat.said:
            self._wake.set()

    def worker_lost(self, reason: str, *, died: bool) -> None:
        """Requests without a Chunk, and durable ones, are run again; the others end with WorkerLost."""
        self._beat = Beat()
        self._trouble = ""
        for job in reversed(self._working.take_all()):
            if job.last and not job.request.durable:
                error: AgentError = WorkerLost(f"the model's Worker was lost in mid-answer ({reason})")
                self._working.fail(job, error)
            elif died and job.alone:
                error = InternalError(f"the request cost {LIVES} Workers their lives ({reason})")
                self._working.fail(job, error)
            else:
                job.ticket.deaths += died
                job.again()
                self._telemetry.rerun.inc()
                (self._elsewhere(self) or self).take(job)
        if died and (other := self._elsewhere(self)):
            self.move_to(other)
        elif died and self.model.remote:
            self.abandon(Unavailable(reason, retry_after=5))
        self._wake.set()

    # What its replica calls.

    def detach(self) -> None:
        """The Worker is gone in good order; what waits wants another."""
        self._supervisor = None
        self.model = replace(self.model, info=None)
        if len(self._queue):
            self._on_use(self, None)

    def take(self, job: Job) -> None:
        """Go on with what another lane, or this one's former Worker, had."""
        if job.ticket.version != self.model.version:
            job.prompt = job.request.prompt  # another Version has another template
            try:
                check(job.request, self.model, self._settings)
            except AgentError as error:
                return self._working.fail(job, error)
        job.ticket.moved(self._cancelled, self.model.version)
        self._queue.push(job.entry(), again=True)
        if self._supervisor is None:
            self._on_use(self, None)
        self._wake.set()

    def move_to(self, other: TextLane) -> None:
        """Give away what still waits, in its order."""
        waiting = [entry.item for entry in self._queue.entries]
        self._queue = FairQueue()
        for job in reversed(waiting):
            other.take(job)

    def hold(self, why: str) -> None:
        """Let the queue wait; "" lets it go on."""
        self._held = why
        self._wake.set()

    def abandon(self, why: AgentError) -> None:
        """Whoever still waits, or runs, is told."""
        left = [*self._waiting(), *self._working.take_all()]
        self._queue = FairQueue()
        for job in left:
            self._working.fail(job, why)

    async def drain(self, seconds: float) -> None:
        """Wait, so long at most, until the Worker has no Request."""
        while self._in_hand is not None:  # noqa: ASYNC110 - its prompt is being rendered: milliseconds
            await asyncio.sleep(0.01)
        await self._working.drain(seconds)

    async def run(self) -> None:
        """Hand Requests to the Worker as it has room."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S if len(self._queue) else None):
                    await self._wake.wait()
            self._wake.clear()
            self._drop_late()
            while len(self._queue) and self._has_room(self._queue.peek(time.monotonic())):
                await self._hand_over(self._queue.pop(time.monotonic()))
            self._telemetry.queued(self, len(self._working), len(self._queue), self._queue.tokens)

    # Admission.

    def _job(self, request: Request, now: float) -> Job:
        late = math.inf if request.deadline is None else request.deadline
        deadline = min(late, math.inf if request.patient else now + self._settings.request_timeout_s)
        ticket = Ticket(request, self._cancelled, self.model.name, self.model.version)
        priority = self._settings.priority if request.priority is None else request.priority
        return Job(ticket, cost(request, self.model), now, deadline, request.n, request.prompt, priority)

    def _make_room(self, sender: str, count: int, tokens: float) -> None:
        """Raises Overloaded where the queue is full, and the sender has its share of it."""
        most = self._settings.queue_requests
        if count > most:
            raise BadRequest(f"{count} prompts in one body; this node's queue holds {most}", param="prompt")
        over = len(self._queue) + count - most
        over_tokens = self._queue.tokens + tokens - self._settings.queue_tokens
        if not len(self._queue) or max(over, over_tokens) <= 0:
            return
        full = Overloaded("the queue is full", retry_after=self._retry_after())
        crowded = self._queue.crowd_out(sender, over, over_tokens)
        if crowded is None:
            raise full
        for job in crowded:
            self._working.fail(job, full)

    def _retry_after(self) -> float:
        speed = (self._beat.batch / self._beat.step_seconds) if self._beat.step_seconds else 50.0
        return min(60.0, max(1.0, self._queue.tokens / max(speed, 1.0)))

    # From the queue to the Worker.

    def _has_room(self, job: Job) -> bool:
        if self._held or self._supervisor is None or self._supervisor.state is not State.READY:
            return False
        info = self.model.info
        if not isinstance(info, EngineInfo) or self._working.closed or (job.alone and len(self._working)):
            return False
        return self._working.sequences < info.slots + LOOKAHEAD

    async def _hand_over(self, job: Job) -> None:
        self._in_hand = job
        try:
            await self._dispatch(job)
        except Exception as error:  # one Request's mistake must not end the queue
            log.exception("a request could not be handed to the Worker", request=job.ticket.id)
            self._working.take(job.ticket.id)
            self._working.fail(job, InternalError(f"it could not be handed to the model: {error}"))
        finally:
            self._in_hand = None

    def _waiting(self) -> list[Job]:
        in_hand = [self._in_hand] if self._in_hand else []
        return in_hand + [entry.item for entry in self._queue.entries]

    async def _dispatch(self, job: Job) -> None:
        if job.ticket.ended:
            return
        if job.deadline <= time.monotonic():
            return self._working.fail(job, DeadlineExceeded("the deadline passed while the request waited"))
        prompt = job.prompt = job.prompt if job.prompt is not None else await self._render(job)
        if prompt is None or job.ticket.ended:
            return
        if self._held or self._supervisor is None or self._supervisor.state is not State.READY:
            self._queue.push(job.entry(), again=True)
            return
        self._working.add(job)
        late = min(job.deadline, time.monotonic() + self._settings.request_timeout_s)
        self._supervisor.send(job.start(prompt, late, templated_there=self.model.remote is not None))

    async def _render(self, job: Job) -> str | None:
        """The chat's prompt; None: there is nothing to send to the Worker."""
        model = self.model
        if model.remote is not None:
            return ""  # its messages go there
        if model.template is None:
            self._working.fail(job, Unavailable("the model was taken away", retry_after=5))
            return None
        context = {**model.tokens, **job.request.template_kwargs}
        try:
            prompt = await self._templates.render(model.template, job.request.messages or [], context)
            check_size(len(prompt.encode()), model)
        except AgentError as error:
            self._working.fail(job, error)
            return None
        return prompt

    def _drop_late(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._queue.entries if entry.item.deadline <= now]:
            self._queue.remove(entry.item)
            self._working.fail(entry.item, DeadlineExceeded("the deadline passed while the request waited"))

    def _cancelled(self, ticket: TextTicket) -> None:
        if running := self._working.take(ticket.id):
            self._working.settle(running)
            if self._supervisor:
                self._supervisor.send(Cancel(ticket.id))
        for entry in [entry for entry in self._queue.entries if entry.item.ticket is ticket]:
            self._queue.remove(entry.item)
            self._limits.settle(ticket.request.sender, entry.cost, 0.0, time.monotonic())
        self._telemetry.failed("cancelled")
        self._wake.set()
