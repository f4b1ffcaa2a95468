"""One Model of tensors, from admission to its Worker. The Worker forms the batches; here nothing is lost.

An Inference has no Chunks: until its Outputs are there it can always be run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from agent.base_lane import BaseLane
from agent.config import Settings
from agent.engines.engine import TensorInfo
from agent.errors import (
    BY_CODE,
    AgentError,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    Unavailable,
)
from agent.frames import Answered, Cancel, Infer, Ran
from agent.job import LIVES
from agent.limits import Limits
from agent.offered import Offered
from agent.statistics import Statistics
from agent.supervisor import State
from agent.telemetry import ModelTelemetry
from agent.tensor import Inference, Outputs
from agent.tensor_check import check
from agent.ticket import Ticket

log = structlog.get_logger()

SWEEP_S = 0.25  # how often those that wait for a Worker are looked through for passed deadlines
MOST_ROWS = 256  # of one Inference, unless `max_batch_size` says less or more
TensorTicket = Ticket[Inference, Outputs]


@dataclass(slots=True, eq=False)
class _Job:
    ticket: TensorTicket
    bytes: int
    arrived: float
    deadline: float
    priority: int

    @property
    def alone(self) -> bool:
        return self.ticket.deaths >= LIVES - 1

    def frame(self, timeout: float) -> Infer:
        asked, late = self.ticket.request, min(self.deadline, time.monotonic() + timeout)
        return Infer(asked.id, asked.inputs, asked.outputs, self.priority, late)


class TensorLane(BaseLane):
    """As `TextLane`, for Inferences."""

    def __init__(
        self,
        model: Offered,
        settings: Settings,
        telemetry: ModelTelemetry,
        limits: Limits,
        on_use: Callable[[TensorLane, float | None], None],
        elsewhere: Callable[[TensorLane], TensorLane | None],
    ) -> None:
        super().__init__(model, settings, telemetry, limits, on_use, elsewhere)
        self._waiting: dict[str, _Job] = {}  # for a Worker
        self._sent: dict[str, _Job] = {}
        self._bytes = 0  # of the inputs of both
        self._has_alone = False  # what was sent last has the Worker to itself
        self._changed = asyncio.Event()

    @property
    def statistics(self) -> Statistics:
        """Of its Version, whatever lanes that has."""
        return self._telemetry.statistics

    # What serving calls.

    def infer(self, asked: Inference) -> TensorTicket:
        """Take an Inference in. Raises BadRequest, Unavailable or Overloaded."""
        self._check_health()
        self._check(asked)
        now, size = time.monotonic(), sum(len(tensor.data) for tensor in asked.inputs)
        if self.load and (
            self.load >= self._settings.queue_requests or self._bytes + size > self._settings.queue_bytes
        ):
            raise Overloaded("the queue is full", retry_after=1)
        counted = 0 if asked.further else 1
        self._limits.check(asked.sender, counted, 0, now)
        self._limits.charge(asked.sender, counted, 0, now)
        deadline = math.inf if asked.patient else now + self._settings.request_timeout_s
        if asked.deadline is not None:
            deadline = min(deadline, asked.deadline)
        priority = self._settings.priority if asked.priority is None else asked.priority
        ticket = Ticket(asked, self._cancelled, self.model.name, self.model.version)
        job = _Job(ticket, size, now, deadline, priority)
        self._waiting[asked.id] = job
        self._bytes += size
        self._on_use(self, asked.keep_alive)
        self._send_on()
        return job.ticket

    def _check(self, asked: Inference) -> None:
        check(asked, self.model, self._settings.max_batch_size or MOST_ROWS)

    def has(self, request: str) -> bool:
        return request in self._waiting or request in self._sent

    def status(self) -> dict[str, Any]:
        sent = len(self._sent)
        return self._status(len(self._waiting), 0, sent, {"running": sent, "waiting": 0}, 0.0)

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._sent)

    # What the supervisor tells.

    def worker_ready(self, info: TensorInfo) -> None:
        self.model = replace(self.model, info=info)
        self._send_on()

    def worker_said(self, news: Ran) -> None:
        self._telemetry.ran(news)
        self._heard(news.trouble)
        if news.rows and any(answered.outputs is not None for answered in news.answered):
            self.statistics.ran(news.rows, news.seconds)
        for answered in news.answered:
            self._answer(answered, news.seconds)
        if news.answered:
            self._changed.set()
            self._send_on()

    def worker_lost(self, reason: str, *, died: bool) -> None:
        self._trouble = ""
        lost, later, self._sent, self._waiting = self._sent, self._waiting, {}, {}
        for job in lost.values():
            self._bytes -= job.bytes
            if died and job.alone:
                text = f"the request cost {LIVES} Workers their lives ({reason})"
                self._end(job, InternalError(text))
            else:
                job.ticket.deaths += died
                self._telemetry.rerun.inc()
                (self._elsewhere(self) or self).take(job)
        self._waiting |= later  # they came after
        if died and (other := self._elsewhere(self)):
            self.move_to(other)
        elif died and self.model.remote:
            self.abandon(Unavailable(reason, retry_after=5))
        self._changed.set()

    # What its replica calls.

    def detach(self) -> None:
        self._supervisor = None
        self.model = replace(self.model, info=None)
        if self._waiting:
            self._on_use(self, None)

    def take(self, job: _Job) -> None:
        if job.ticket.version != self.model.version:
            try:
                self._check(job.ticket.request)
            except AgentError as error:
                return self._end(job, error)
        job.ticket.moved(self._cancelled, self.model.version)
        self._waiting[job.ticket.id] = job
        self._bytes += job.bytes
        if self._supervisor is None:
            self._on_use(self, None)
        self._send_on()

    def move_to(self, other: TensorLane) -> None:
        waiting, self._waiting = self._waiting, {}
        for job in waiting.values():
            self._bytes -= job.bytes
            other.take(job)

    def hold(self, why: str) -> None:
        self._held = why
        self._send_on()

    def abandon(self, why: AgentError) -> None:
        for job in [*self._sent.values(), *self._waiting.values()]:
            self._end(job, why)

    async def drain(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._sent:
                    self._changed.clear()
                    await self._changed.wait()

    async def run(self) -> None:
        """Tell those whose deadline passes before a Worker has them; the Worker tells the others."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for job in [job for job in self._waiting.values() if job.deadline <= now]:
                self._end(job, DeadlineExceeded("the deadline passed while the request waited"))
            self._telemetry.queued(self, len(self._sent), len(self._waiting), 0)

    # To the Worker and back.

    def _send_on(self) -> None:
        """All that waits; what may have killed Workers goes alone, so that the guilty one is found."""
        one = self._supervisor
        if self._held or one is None or one.state is not State.READY:
            return
        while self._waiting:
            id, job = next(iter(self._waiting.items()))
            if self._sent and (job.alone or self._has_alone):
                return
            self._sent[id] = self._waiting.pop(id)
            self._has_alone = job.alone
            try:
                one.send(job.frame(self._settings.request_timeout_s))
            except Exception as error:  # one Inference's mistake must not end the others
                log.exception("an inference could not be handed to the Worker", request=id)
                self._end(job, InternalError(f"it could not be handed to the model: {error}"))

    def _answer(self, answered: Answered, computing: float) -> None:
        job = self._sent.get(answered.id)
        if job is None:  # it was cancelled meanwhile
            return
        if answered.outputs is None:
            error = BY_CODE.get(answered.code, InternalError)
            return self._end(job, error(answered.message, retry_after=answered.retry_after))
        job.ticket.put(Outputs(answered.outputs))
        self._telemetry.finished("stop")
        took = time.monotonic() - job.arrived
        self._telemetry.e2e.observe(took)
        self.statistics.answered(self._rows(job), took, computing, time.time())
        self._forget(job)
        job.ticket.end()

    def _rows(self, job: _Job) -> int:
        first = job.ticket.request.inputs[0]
        return first.shape[0] if self.model.batches and first.shape else 1

    def _end(self, job: _Job, error: AgentError) -> None:
        self._telemetry.failed(error.code)
        self.statistics.failed(time.monotonic() - job.arrived)
        self._forget(job)
        job.ticket.end(error)

    def _forget(self, job: _Job) -> None:
        for jobs in (self._sent, self._waiting):
            if jobs.pop(job.ticket.id, None):
                self._bytes -= job.bytes

    def _cancelled(self, ticket: TensorTicket) -> None:
        if ticket.id in self._sent and self._supervisor:
            self._supervisor.send(Cancel(ticket.id))
        job = self._sent.get(ticket.id) or self._waiting[ticket.id]
        self._telemetry.failed("cancelled")
        self.statistics.failed(time.monotonic() - job.arrived)
        self._forget(job)
        self._changed.set()
