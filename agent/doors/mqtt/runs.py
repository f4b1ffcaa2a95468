"""From the inbox to serving and back: claims prompts, senders in turn, runs them, keeps their results.

Tensors are claimed, run and kept as prompts are; what differs is in TextRun and TensorRun.
What serving does not take now goes back to the inbox: at a sender's rate limit, or where its model cannot be
loaded, that sender is held for a while; at a full queue all prompts are, or all tensors. So a sender's stay
in order, and only what runs is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from agent.config import Settings
from agent.doors.mqtt.intake import error_payload
from agent.doors.mqtt.tensor_run import TensorRun
from agent.doors.mqtt.text_run import TextRun
from agent.doors.mqtt.topics import Topics
from agent.doors.openai.strict_json import LARGE
from agent.errors import AgentError, Cancelled, InternalError, Overloaded, RateLimited, Unavailable
from agent.serving import Serving
from agent.telemetry import Telemetry
from cloud_sync.state import Prompt, State, StateError

NOT_READY_S = 0.5  # how often a node that is not ready is asked again
RETRY_S = 1.0  # after the database did not take a write
HOLD_S = 10.0  # the longest that a sender is held at once
HOLD_MOST_S = 120.0  # the same where its model is away again and again
FULL_S, FULL_MOST_S = 0.1, 5.0  # how long all of a kind are held at a full queue; doubles

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Out:
    """What a run tells the door: tokens as they come, and that the outbox has something new."""

    tokens: Callable[[str, bytes], None]  # topic, payload
    news: Callable[[], None]


@dataclass(slots=True)
class _Full:
    """Until when one kind is held, and for how long it will be if its queue is still full then."""

    until: float = 0.0  # on the monotonic clock
    wait: float = FULL_S

    def again(self) -> None:
        self.until = time.monotonic() + self.wait * random.uniform(1, 1.2)  # noqa: S311
        self.wait = min(2 * self.wait, FULL_MOST_S)


class Runs:
    """`run` until cancelled; `wake` when a prompt was accepted."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        telemetry: Telemetry,
        state: State,
        topics: Topics,
        out: Out,
    ) -> None:
        self._settings, self._serving, self._telemetry = settings, serving, telemetry
        self._state, self._topics, self._out = state, topics, out
        self._most_bytes = 4 * settings.max_body_bytes
        self._running: dict[int, int] = {}  # number -> bytes of its body
        self._held: dict[str, float] = {}  # sender -> until, on the monotonic clock
        self._hold_s: dict[str, float] = {}  # sender -> for how long the next time
        self._full = {"prompts": _Full(), "tensors": _Full()}
        self._wake = asyncio.Event()

    @property
    def _most(self) -> int:
        """Enough that the Worker never waits for the disk, few enough to hold in memory."""
        return min(self._settings.queue_requests, max(16, 2 * (self._settings.max_batch_size or 32)))

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._resume()
                while True:
                    self._wake.clear()
                    wait = await self._start_some(group)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._wake.wait()
        finally:
            with contextlib.suppress(StateError):  # then they count as an attempt, no more
                await self._state.release(self._running, begun=True)

    async def _resume(self) -> None:
        while True:
            with contextlib.suppress(StateError):
                if again := await self._state.resume(self._running):
                    log.info("accepted prompts go on", prompts=again)
                return
            await asyncio.sleep(RETRY_S)

    async def _start_some(self, group: asyncio.TaskGroup) -> float | None:
        """Seconds until there may be more to start; None: not before something happens."""
        free = self._most - len(self._running)
        if free <= 0:
            return None
        now = time.monotonic()
        waits = self._waits(now)
        if all(waits.values()):
            return min(waits.values())
        self._held = {sender: until for sender, until in self._held.items() if until > now}
        try:
            room = self._most_bytes - sum(self._running.values())
            kinds = {kind: not wait for kind, wait in waits.items()}
            prompts = await self._state.claim(free, self._held, most_bytes=room, **kinds)
        except StateError as error:
            log.error("prompts could not be claimed", error=str(error))
            await asyncio.sleep(RETRY_S)
            await self._resume()  # the disk may have it all the same
            return 0.0
        self._running.update((prompt.seq, len(prompt.body)) for prompt in prompts)
        back = [prompt.seq for prompt in prompts if not await self._start(prompt, group)]
        if back:
            await self._give_back(back, begun=False)
        if back or len(prompts) == free:
            return 0.0
        later = [wait for wait in waits.values() if wait]
        return min([*later, *(until - now for until in self._held.values())], default=None)

    def _waits(self, now: float) -> dict[str, float]:
        """By kind, the seconds until some may be started; 0: now."""
        waits = {kind: max(0.0, full.until - now) for kind, full in self._full.items()}
        if not self._serving.whole:  # they may be for what is to come
            waits = {kind: max(wait, NOT_READY_S) for kind, wait in waits.items()}
        if self._serving.find("") is None:
            waits["prompts"] = max(waits["prompts"], NOT_READY_S)
        return waits

    async def _start(self, prompt: Prompt, group: asyncio.TaskGroup) -> bool:
        """False: not now."""
        full = self._full[_kind(prompt)]
        if prompt.sender in self._held or time.monotonic() < full.until:
            return False
        try:
            if prompt.spent:
                raise InternalError("this prompt was begun too often and never finished: it is not run again")
            make = self._of(prompt)
            run = await asyncio.to_thread(make) if len(prompt.body) > LARGE else make()
            run.submit()
        except (Overloaded, Unavailable) as error:
            self._hold(prompt, error)
            return False
        except Exception as error:  # noqa: BLE001 - it is this prompt's alone
            group.create_task(self._finish(prompt, _failure(prompt, error)))
            return True
        full.wait = FULL_S
        group.create_task(self._run(prompt, run))
        return True

    def _of(self, prompt: Prompt) -> Callable[[], TextRun | TensorRun]:
        if prompt.model is not None:
            return partial(TensorRun, prompt, self._settings, self._serving, self._state)
        send = partial(self._out.tokens, self._topics.tokens(prompt.sender, prompt.id))
        return partial(TextRun, prompt, self._settings, self._serving, self._state, send)

    def _hold(self, prompt: Prompt, error: AgentError) -> None:
        if isinstance(error, RateLimited | Unavailable):  # of Unavailable: the model that it named, alone
            wait = min(HOLD_S, error.retry_after or RETRY_S)
            if isinstance(error, Unavailable):  # each try costs the flash two commits
                wait = max(wait, self._hold_s.get(prompt.sender, 0.0))
                self._hold_s[prompt.sender] = min(2 * wait, HOLD_MOST_S)
            self._held[prompt.sender] = time.monotonic() + wait * random.uniform(1, 1.2)  # noqa: S311
        else:
            self._full[_kind(prompt)].again()

    async def _run(self, prompt: Prompt, run: TextRun | TensorRun) -> None:
        header_length = None
        try:
            payload, header_length = await run.answer()
        except (Overloaded, Unavailable, Cancelled) as error:
            self._hold(prompt, error)
            return await self._give_back([prompt.seq], begun=True)
        except Exception as error:  # noqa: BLE001 - it is this prompt's alone
            payload = _failure(prompt, error)
        finally:
            run.close()
        await self._finish(prompt, payload, header_length)

    async def _finish(self, prompt: Prompt, payload: bytes, header_length: int | None = None) -> None:
        while True:
            try:
                await self._state.finish(prompt.seq, payload, header_length)
                break
            except StateError as error:
                log.error("a result could not be kept", id=prompt.id, error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
        self._telemetry.mqtt_messages.labels(kind="answered").inc()
        self._running.pop(prompt.seq, None)
        self._out.news()
        self._wake.set()

    async def _give_back(self, seqs: list[int], *, begun: bool) -> None:
        kept = True
        try:
            await self._state.release(seqs, begun=begun)
        except StateError as error:
            log.error("prompts could not be given back yet", prompts=len(seqs), error=str(error))
            kept = False
        for seq in seqs:
            self._running.pop(seq, None)
        if not kept:  # their rows still say that they run
            await self._resume()
        self._wake.set()


def _kind(prompt: Prompt) -> str:
    return "prompts" if prompt.model is None else "tensors"


def _failure(prompt: Prompt, error: Exception) -> bytes:
    if not isinstance(error, AgentError):
        log.error("a prompt failed unexpectedly", id=prompt.id, sender=prompt.sender, exc_info=error)
        error = InternalError("something went wrong inside the node")
    return error_payload(error, prompt.id, prompt.sender)
