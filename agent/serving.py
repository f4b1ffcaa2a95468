"""One way in for all doors: admission, the queue, the Requests that a Worker has, and its death."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import structlog

from agent.admission import FairQueue
from agent.config import Settings
from agent.engines.engine import EngineInfo
from agent.errors import (
    AgentError,
    BadRequest,
    DeadlineExceeded,
    InternalError,
    ModelNotFound,
    Overloaded,
    Unavailable,
    WorkerLost,
)
from agent.frames import Beat, Cancel
from agent.inflight import InFlight
from agent.job import LIVES, Job, check, check_size, cost
from agent.limits import Limits
from agent.offered import Offered
from agent.request import Request
from agent.supervisor import State, Supervisor
from agent.telemetry import Telemetry
from agent.templates import Templates
from agent.ticket import Ticket

log = structlog.get_logger()

LOOKAHEAD = 4
"""Sequences that the Worker has beyond its slots, so that a freed slot is taken in the very next step."""
SWEEP_S = 0.25  # how often the queue is looked through for passed deadlines


class Serving:
    """`submit` for the doors; `worker_*` for the supervisor; `attach`, `drain` and `run` for the node."""

    def __init__(self, settings: Settings, telemetry: Telemetry, templates: Templates) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._templates = templates
        self._limits = Limits(settings)
        self._model: Offered | None = None
        self._supervisor: Supervisor | None = None
        self._held = ""  # why the queue waits, where it does
        self._closed = False
        self._in_hand: Job | None = None  # out of the queue, not yet the Worker's
        self._queue: FairQueue[Job] = FairQueue()
        self._working = InFlight(telemetry, self._limits)
        self._wake = asyncio.Event()
        self._beat = Beat()

    # What doors call.

    def submit(self, request: Request) -> Ticket:
        """Take a Request in.

        Raises ModelNotFound, BadRequest, Unavailable or Overloaded at once; the Ticket raises the rest.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: list[Request]) -> list[Ticket]:
        """Take in the Requests of one body, all or none. Raises as `submit` does."""
        try:
            return self._admit(requests)
        except AgentError as error:
            self._telemetry.refused.labels(code=error.code).inc()
            raise

    def offered(self) -> list[Offered]:
        return [self._model] if self._model else []

    def ready(self) -> tuple[bool, str]:
        """Whether a Request would be answered now, and why not."""
        if self._supervisor is None:
            return False, self._held or "no model is loaded yet"
        if self._supervisor.state is not State.READY:
            return False, self._supervisor.reason
        return not self._held, self._held

    def status(self) -> dict[str, Any]:
        sequences = {"running": self._beat.running, "waiting": self._beat.waiting}
        supervisor = self._supervisor.status() if self._supervisor else {"state": State.STOPPED}
        return {
            "queue": {"requests": len(self._queue), "tokens": round(self._queue.tokens)},
            "running": len(self._working),
            "worker": {**supervisor, "sequences": sequences, "kv_used": round(self._beat.kv_used, 4)},
        }

    # What the supervisor tells.

    def worker_ready(self, info: EngineInfo) -> None:
        self._beat = Beat()
        if self._model:
            self._model = replace(self._model, info=info)
        self._wake.set()

    def worker_said(self, beat: Beat) -> None:
        self._telemetry.heard(self._beat, beat)
        self._beat = beat
        for said in beat.said:
            self._working.hear(said)
        if beat.said:
            self._wake.set()

    def worker_lost(self, reason: str, *, died: bool) -> None:
        """Requests without a Chunk, and durable ones, are run again; the others end with WorkerLost."""
        self._beat = Beat()
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
                self._queue.push(job.entry(), again=True)
        self._wake.set()

    # What the node calls.

    def attach(self, model: Offered, supervisor: Supervisor) -> None:
        self._model, self._supervisor = model, supervisor
        for job in self._waiting():
            if job.request.messages is not None:
                job.prompt = None  # another Version has another template

    def hold(self, why: str) -> None:
        """Let the queue wait; "" lets it go on."""
        self._held = why
        self._wake.set()

    def close(self) -> None:
        """Take nothing in any more."""
        self._closed = True

    def abandon(self) -> None:
        """The agent ends: whoever still waits is told."""
        left = [*self._waiting(), *self._working.take_all()]
        self._queue = FairQueue()
        for job in left:
            self._working.fail(job, Unavailable("the agent is stopping", retry_after=5))

    async def drain(self, seconds: float) -> None:
        """Wait, so long at most, until the Worker has no Request."""
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
            self._gauges()

    # Admission.

    def _admit(self, requests: list[Request]) -> list[Ticket]:
        now = time.monotonic()
        if self._closed:
            raise Unavailable("the agent is stopping", retry_after=5)
        for request in requests:
            check(request, self._resolve(request.model), self._settings)
            if request.id in self._working or any(job.ticket.id == request.id for job in self._waiting()):
                raise BadRequest(f"a request with id {request.id!r} is running", param="id")
        sender, tokens = requests[0].sender, sum(cost(request) for request in requests)
        self._make_room(sender, len(requests), tokens)
        self._limits.charge(sender, len(requests), tokens, now)
        jobs = [self._job(request, now) for request in requests]
        for job in jobs:
            self._queue.push(job.entry())
        self._wake.set()
        return [job.ticket for job in jobs]

    def _job(self, request: Request, now: float) -> Job:
        deadline = now + self._settings.request_timeout_s
        if request.deadline is not None:
            deadline = min(deadline, request.deadline)
        return Job(Ticket(request, self._cancelled), cost(request), now, deadline, request.n, request.prompt)

    def _make_room(self, sender: str, count: int, tokens: float) -> None:
        """Raises Overloaded where the queue is full, and the sender has its share of it."""
        most = self._settings.queue_requests
        if count > most:
            raise BadRequest(f"{count} prompts in one body; this node's queue holds {most}", param="prompt")
        while len(self._queue) and (
            len(self._queue) + count > most or self._queue.tokens + tokens > self._settings.queue_tokens
        ):
            crowded = self._queue.crowd_out(sender)
            if crowded is None:
                raise Overloaded("the queue is full", retry_after=self._retry_after())
            self._working.fail(crowded, Overloaded("the queue is full", retry_after=self._retry_after()))

    def _resolve(self, name: str) -> Offered:
        if self._model is None:
            raise Unavailable(self.ready()[1], retry_after=5)
        if not self._model.answers_to(name):
            raise ModelNotFound(
                f"the model {name!r} is not served here; this node serves {self._model.name!r}"
                " (AUTOGLM_MODEL chooses which, at its start)",
                param="model",
            )
        if self._supervisor and self._supervisor.state is State.BACKOFF and self._supervisor.deaths >= LIVES:
            raise Unavailable(f"the model does not stay up: {self._supervisor.reason}", retry_after=10)
        return self._model

    def _retry_after(self) -> float:
        speed = (self._beat.batch / self._beat.step_seconds) if self._beat.step_seconds else 50.0
        return min(60.0, max(1.0, self._queue.tokens / max(speed, 1.0)))

    # From the queue to the Worker.

    def _has_room(self, job: Job) -> bool:
        if self._held or self._supervisor is None or self._supervisor.state is not State.READY:
            return False
        if self._model is None or self._model.info is None:
            return False
        if self._working.closed or (job.alone and len(self._working)):
            return False
        return self._working.sequences < self._model.info.slots + LOOKAHEAD

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
        if self._supervisor is None or self._supervisor.state is not State.READY:
            self._queue.push(job.entry(), again=True)
            return
        self._working.add(job)
        self._supervisor.send(job.start(prompt))

    async def _render(self, job: Job) -> str | None:
        """The chat's prompt; None: there is nothing to send to the Worker."""
        model = self._model
        if model is None or model.template is None:
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

    def _cancelled(self, ticket: Ticket) -> None:
        if self._working.take(ticket.id) and self._supervisor:
            self._supervisor.send(Cancel(ticket.id))
        for entry in [entry for entry in self._queue.entries if entry.item.ticket is ticket]:
            self._queue.remove(entry.item)
        self._telemetry.failed.labels(code="cancelled").inc()
        self._wake.set()

    def _gauges(self) -> None:
        self._telemetry.running.set(len(self._working))
        self._telemetry.waiting.set(len(self._queue))
        self._telemetry.waiting_tokens.set(self._queue.tokens)
