"""Keeps one Worker alive for one Version: starts it, hears its heartbeat, ends it when silent, restarts it.

    STOPPED -> LOADING -> READY -> STOPPED          in good order (swap, agent's end)
               LOADING | READY -> BACKOFF -> LOADING  it died, was silent, or could not load

Only `_enter` changes the state. What a Worker says goes to `Listener`, which serving implements.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import structlog

from agent.crash import CrashFile, epitaph
from agent.frames import Beat, Broken, Loading, Ran, Reader, Ready, Stop, TensorsReady, ToAgent, ToWorker
from agent.line import Line
from agent.telemetry import ModelTelemetry

log = structlog.get_logger()

_ROOM = memoryview(bytearray(256 * 1024))  # for what is received and taken in at once
SLICE_S = 0.5  # a Worker's silence is counted in such, so that our own delays do not count
BACKOFF = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)  # seconds before the next start, by deaths in a row


class State(StrEnum):
    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class Launch:
    """What a Worker is started with."""

    model: str  # the Model's name, for logs
    version: str
    engine: str
    path: str
    settings: dict[str, Any]


class Listener(Protocol):
    """A lane. What it is told is of the kind that its Engine is of."""

    def worker_ready(self, info: Any) -> None: ...
    def worker_said(self, news: Any) -> None: ...
    def worker_lost(self, reason: str, *, died: bool) -> None:
        """The Worker is gone, with every Request it had; not `died`: it was stopped in good order."""


@dataclass(slots=True)
class Deadlines:
    silent_s: float
    load_s: float


@dataclass(slots=True)
class Supervisor:
    launch: Launch
    listener: Listener
    deadlines: Deadlines
    telemetry: ModelTelemetry
    state: State = State.STOPPED
    reason: str = "not started"  # why it is not READY
    share: float = 0.0  # of the load
    deaths: int = 0  # in a row
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # the first load has ended, well or badly
    progressed: float = field(default_factory=time.monotonic)  # when this loop last did something
    _line: Line | None = None
    _trace: dict[str, str] = field(default_factory=dict)  # where the last life crashed, if it did
    _process: asyncio.subprocess.Process | None = None
    _silent: bool = True  # nothing was heard since this was set
    _fruitful: bool = False  # this life has generated something: earlier deaths are paid for
    _stopping: bool = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        return {
            "state": self.state,
            "reason": self.reason,
            "pid": self.pid,
            "deaths_in_a_row": self.deaths,
            "loaded": round(self.share, 3),
        }

    async def run(self) -> None:
        """Until `stop`: one life after another."""
        while not self._stopping:
            self._fruitful = False
            try:
                reason = await self._life()
            except (OSError, ValueError) as error:  # it cannot be started, or it does not speak our frames
                reason = f"broken: {error}"
            except Exception as error:  # ours: it must cost no more than this Worker
                log.exception("a Worker's news could not be taken in", model=self.launch.model)
                reason = f"broken: {error}"
            if self._stopping:
                break
            self.deaths = 1 if self._fruitful else self.deaths + 1
            self.telemetry.lost(reason, loading=self.state is State.LOADING)
            self._enter(State.BACKOFF, reason)
            if self.deaths > 1 or not reason.startswith("crash"):  # which may be chance, once
                self.settled.set()
            self.listener.worker_lost(reason, died=True)
            pause = BACKOFF[min(self.deaths, len(BACKOFF)) - 1]
            log.warning(
                "worker lost", model=self.launch.model, reason=reason, restart_in_s=pause, **self._trace
            )
            await self._pause(pause)
        self._enter(State.STOPPED, "stopped")
        self.settled.set()
        self.listener.worker_lost("stopped", died=False)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Ask the Worker to end; `run` returns. It is killed where it does not within `grace_s`."""
        self._stopping = True
        if self._process is None:
            return
        self.send(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait()
                return
        self._kill()

    def send(self, frame: ToWorker) -> None:
        """To the Worker, never blocking; dropped when there is none (serving hears `worker_lost`)."""
        if self._line is not None:
            self._line.send(frame)

    async def _life(self) -> str:
        """One Worker from start to end: why it ended."""
        again = f" again, after this: {self.reason}" if self.deaths else ""
        self._enter(State.LOADING, f"the model is loading{again}")
        self.share = 0.0
        began = time.monotonic()
        async with self._spawned() as line:
            if self._stopping:  # while it was being started
                return "stopped"
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._listen(line, began, ended)
            waited = 0.0
            while not ended.done():
                limit = self.deadlines.silent_s if self.state is State.READY else self.deadlines.load_s
                if waited >= limit:
                    return f"hang: no heartbeat for {limit:g} s"
                self._silent, slice_s = True, min(SLICE_S, limit - waited)
                await asyncio.wait({ended}, timeout=slice_s)
                self.progressed = time.monotonic()
                waited = waited + slice_s if self._silent else 0.0
            return ended.result() or await self._epitaph()

    def _listen(self, line: Line, began: float, ended: asyncio.Future[str]) -> None:
        """Take in what the Worker says, as it comes. `ended`: why its life has, "" for the process's end."""
        loop, reader = asyncio.get_running_loop(), Reader(ToAgent)

        def read() -> None:
            try:
                reason = self._read(line, reader, began)
            except Exception as error:  # noqa: BLE001 - whoever awaits it tells
                ended.set_exception(error)
            else:
                if reason is None:
                    return
                ended.set_result(reason)
            loop.remove_reader(line.ours)

        loop.add_reader(line.ours, read)

    def _read(self, line: Line, reader: Reader, began: float) -> str | None:
        """None: there will be more. ValueError: it does not speak our frames."""
        try:
            count = line.ours.recv_into(_ROOM)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            count = 0
        for frame in reader.feed(_ROOM[:count]):
            if isinstance(frame, Broken):
                return f"broken: {frame.reason}"
            if isinstance(frame, Ran):
                line.given_back(frame.read)
            elif isinstance(frame, TensorsReady):
                line.lends = frame.borrows
            self._heard(frame, began)
        return None if count else ""

    def _heard(self, frame: ToAgent, began: float) -> None:
        self.progressed, self._silent = time.monotonic(), False
        match frame:
            case Loading():
                self.share = frame.share
            case Ready() | TensorsReady():
                self._enter(State.READY, "")
                self.telemetry.loaded(time.monotonic() - began)
                log.info("model ready", model=self.launch.model, version=self.launch.version)
                self.settled.set()
                self.listener.worker_ready(frame.info)
            case Beat() | Ran():
                self._fruitful = self._fruitful or frame.fruitful
                self.listener.worker_said(frame)

    @contextlib.asynccontextmanager
    async def _spawned(self) -> AsyncIterator[Line]:
        line, crash = Line(), CrashFile()
        try:
            with line.theirs as theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "agent.worker", "worker"),
                    *("--socket", str(theirs.fileno()), "--crash", str(crash.fd), "--lent", str(line.memory)),
                    *("--engine", self.launch.engine, "--model", self.launch.path),
                    *("--settings", json.dumps(self.launch.settings)),
                    pass_fds=(theirs.fileno(), crash.fd, line.memory),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            self._line = line
            yield line
        finally:
            self._line = None
            line.stop()
            self._kill()
            if self._process is not None:
                await asyncio.shield(self._process.wait())
            self._process = None
            self._trace = crash.read()
            crash.close()
            line.close()

    async def _epitaph(self) -> str:
        """What the ended process's exit status says."""
        if self._process is None:
            return "exit: before it began"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                return epitaph(await self._process.wait())
        return "hang: it closed its socket and stayed"

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _pause(self, seconds: float) -> None:
        """Sleep in slices, so that `stop` and the watchdog see life."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(0.2, left))
            self.progressed = time.monotonic()

    def _enter(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self.telemetry.ready(self.listener, state is State.READY)
