"""Writes down what the cloud is to know of this node: metrics by the minute, events, excerpts of the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog

from agent.alarms import Alarms, Watched
from agent.config import Settings
from agent.excerpts import Excerpts
from agent.rollup import Rollup
from agent.telemetry import Telemetry
from cloud_sync.state import StateError
from cloud_sync.telemetry.drain import Drain
from cloud_sync.telemetry.outbox import NAME, Outbox
from cloud_sync.telemetry.redaction import Redaction
from cloud_sync.telemetry.rows import Backlog, Entry

TICK_S = 1.0
LOOK_S = 10.0  # how often gauges are looked at
AGAIN_S = 60.0  # how soon again where the disk does not take it
JUMP_S = 5.0  # of the wall clock against the monotonic one
READ_CHARACTERS, KEPT_CHARACTERS = 65536, 4000  # of a prompt, before and after redaction

log = structlog.get_logger()


class Recorder:
    """Of a node of a fleet: one that is none has no file, and forgets."""

    def __init__(self, settings: Settings, telemetry: Telemetry, watched: Watched) -> None:
        self._settings, self._telemetry = settings, telemetry
        self._journal = telemetry.journal
        self._alarms = Alarms(settings, self._journal, watched)
        self._excerpts = Excerpts(self._journal)
        self._rollup = Rollup()
        self._redaction = Redaction()
        self._patterns: list[str] = []
        self._outbox: Outbox | None = None
        self.drain = Drain(lambda: settings.telemetry_bytes_per_s)

    def status(self) -> dict[str, Any] | None:
        """For `/status`; None: there is no file."""
        if self._outbox is None:
            return None
        backlog = self._outbox.backlog
        return {"rows": backlog.rows, "oldest_s": round(_age(backlog)), "given_up": backlog.given_up}

    def forget(self) -> None:
        """This machine is no node of a fleet."""
        self._journal.take()

    async def run(self) -> None:
        """Until cancelled. What fails here takes nothing with it."""
        while True:
            try:
                self._outbox = await asyncio.to_thread(Outbox, self._settings.data_dir / NAME, self._quota)
                await self._record(self._outbox)
            except StateError as error:
                log.error("telemetry cannot be kept", reason=str(error), again_in_s=AGAIN_S)
            except Exception:
                log.exception("telemetry failed", again_in_s=AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    async def _record(self, outbox: Outbox) -> None:
        if outbox.set_aside is not None:
            self._journal.event("database_lost", what="telemetry", file=outbox.set_aside.name)
        self.drain.open(outbox)
        root = logging.getLogger()
        root.addHandler(self._excerpts)
        metrics = Minutes(self._settings, self._telemetry, self._rollup)
        try:
            while True:
                self._follow_settings()
                await self._alarms.look(outbox.backlog)
                metrics.look()
                self._excerpts.settle()
                await _to_its_end(self._keep(outbox))
                self._show(outbox.backlog)
                await asyncio.sleep(TICK_S)
        finally:
            root.removeHandler(self._excerpts)
            self.drain.close()
            metrics.close()
            with contextlib.suppress(StateError):
                await self._keep(outbox)
            self._outbox = None
            await outbox.close()

    def _follow_settings(self) -> None:
        now = self._settings
        self._journal.share = now.prompt_samples
        level = {"warning": logging.WARNING, "error": logging.ERROR, "off": logging.CRITICAL + 1}
        self._excerpts.setLevel(level[now.log_excerpts])
        if now.redact_patterns != self._patterns:
            self._patterns = list(now.redact_patterns)
            self._redaction = self._excerpts.redaction = Redaction(self._patterns)

    async def _keep(self, outbox: Outbox) -> None:
        """On the disk, what came since; StateError, and it is kept in mind."""
        entries = self._journal.take()
        if not entries:
            return
        if any(entry.stream in ("events", "samples") for entry in entries):
            entries = await asyncio.to_thread(lambda: [self._cleaned(entry) for entry in entries])
        try:
            await outbox.append(entries)
        except StateError:
            self._journal.put_back(entries)
            raise
        except Exception:
            self._journal.lost += len(entries)
            raise
        if any(entry.stream == "events" for entry in entries):
            self.drain.hurry()

    def _cleaned(self, entry: Entry) -> Entry:
        told = dict(entry.body)
        if entry.stream == "samples":
            text = self._redaction.clean(told["prompt"][:READ_CHARACTERS])
            told |= {"prompt": text[:KEPT_CHARACTERS], "characters": len(told["prompt"])}
        elif "reason" in told:
            told["reason"] = self._redaction.clean(told["reason"])
        return replace(entry, body=told)

    def _show(self, backlog: Backlog) -> None:
        shown = self._telemetry.outbox
        shown.waits(backlog.rows, _age(backlog))
        shown.counted(
            backlog.given_up,
            lost=self._journal.lost,
            batches=self.drain.sent_batches,
            sent_bytes=self.drain.sent_bytes,
        )

    def _quota(self) -> int:
        return self._settings.telemetry_quota_mb << 20


class Minutes:
    """Tells the journal of each period's metrics, and of the wall clock's jumps."""

    def __init__(self, settings: Settings, telemetry: Telemetry, rollup: Rollup) -> None:
        self._settings, self._telemetry, self._rollup = settings, telemetry, rollup
        self._began = self._looked = time.monotonic()
        self._wall = time.time()  # when it began

    def look(self) -> None:
        """Called often."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._rollup.look(self._telemetry.registry.collect())
        jumped = time.time() - self._wall - (now - self._began)
        if abs(jumped) > JUMP_S:
            self._telemetry.journal.event("clock_jumped", by_s=round(jumped, 1))
            self._wall += jumped
        if now - self._began >= self._settings.telemetry_period_s:
            self.close()

    def close(self) -> None:
        """The period is over, or the agent is."""
        now = time.monotonic()
        series = self._rollup.close(self._telemetry.registry.collect(), now)
        if series:
            body = {"period_s": max(1, round(now - self._began)), "series": series}
            self._telemetry.journal.metrics(self._wall, body)
        self._began, self._wall = now, time.time()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancelled, it is waited for all the same: what it holds is nowhere else."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        task.exception()
        raise


def _age(backlog: Backlog) -> float:
    return 0.0 if backlog.oldest is None else max(0.0, time.time() - backlog.oldest)
