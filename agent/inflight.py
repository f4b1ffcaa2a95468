"""The Requests that the Worker has, from its Chunks to their Tickets, and how a Request ends."""

from __future__ import annotations

import asyncio
import contextlib
import time

from agent.errors import BY_CODE, AgentError, InternalError
from agent.frames import Said
from agent.job import Job, prompt_cost
from agent.limits import Limits
from agent.request import Chunk
from agent.telemetry import ModelTelemetry


class InFlight:
    def __init__(self, telemetry: ModelTelemetry, limits: Limits) -> None:
        self._telemetry = telemetry
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._changed = asyncio.Event()
        self.sequences = 0  # that the Worker has of them

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, request: str) -> bool:
        return request in self._jobs

    @property
    def closed(self) -> bool:
        """Whether one has the Worker to itself."""
        return any(job.alone for job in self._jobs.values())

    def add(self, job: Job) -> None:
        self._jobs[job.ticket.id] = job
        self.sequences += job.left
        self._telemetry.queue_time.observe(time.monotonic() - job.arrived)

    def hear(self, said: Said) -> None:
        """News of a Request; of one that was cancelled meanwhile they are dropped."""
        job = self._jobs.get(said.id)
        if job is None:
            return
        if said.chunk is None:
            self.take(said.id)
            return self.fail(job, _error(said))
        if not job.request.embed:
            self._time(job)
        job.tokens += said.chunk.tokens
        job.ticket.put(said.chunk)
        if said.chunk.finish:
            self._finish(job, said.chunk)

    def take(self, request: str) -> Job | None:
        """Out of the Worker's hands, if it is there."""
        job = self._jobs.pop(request, None)
        if job is not None:
            self.sequences -= job.left
            self._changed.set()
        return job

    def take_all(self) -> list[Job]:
        """In the order in which they came to the Worker."""
        jobs, self._jobs, self.sequences = list(self._jobs.values()), {}, 0
        self._changed.set()
        return jobs

    async def drain(self, seconds: float) -> None:
        """Wait, so long at most, until there are none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._jobs:
                    self._changed.clear()
                    await self._changed.wait()

    def fail(self, job: Job, error: AgentError) -> None:
        """End a Request by an error, wherever it was."""
        self._telemetry.failed(error.code)
        self.settle(job)
        job.ticket.end(error)

    def settle(self, job: Job) -> None:
        """Charge a Request that ends without usage by what it had; nothing, where no Worker had it."""
        used = prompt_cost(job.request) + job.tokens if job.tokens else 0.0
        self._limits.settle(job.request.sender, job.cost, used, time.monotonic())

    def _finish(self, job: Job, chunk: Chunk) -> None:
        job.left -= 1
        self.sequences -= 1
        self._telemetry.finished(chunk.finish or "")
        if job.left:
            return
        self.take(job.ticket.id)
        now = time.monotonic()
        self._telemetry.e2e.observe(now - job.arrived)
        if usage := chunk.usage:
            used = usage.prompt_tokens + usage.completion_tokens
            self._limits.settle(job.request.sender, job.cost, used, now)
        job.ticket.end()

    def _time(self, job: Job) -> None:
        now = time.monotonic()
        if job.last:
            self._telemetry.inter_token.observe(now - job.last)
        else:
            self._telemetry.ttft.observe(now - job.arrived)
        job.last = now


def _error(said: Said) -> AgentError:
    return BY_CODE.get(said.code, InternalError)(said.message, retry_after=said.retry_after)
