"""What is wrong with this node, for the cloud: each alarm is raised, and cleared, once."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from typing import Protocol

from agent.config import Settings
from agent.journal import Journal
from cloud_sync.telemetry.rows import Backlog

LASTS_S = 60.0  # before something that mends itself often is an alarm
DISK_S = 60.0  # how often the disk is looked at
DISK_FREE = 256 << 20  # bytes


class Watched(Protocol):
    doors: dict[str, str]

    def ready(self) -> tuple[bool, str]: ...
    def link(self) -> str: ...


class Alarms:
    """`clock`: monotonic."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        watched: Watched,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._journal, self._watched, self._clock = settings, journal, watched, clock
        self._since: dict[str, float] = {}  # what is wrong
        self._disk_at = -DISK_S
        self._given_up = 0  # rows, when the backlog was last empty

    async def look(self, backlog: Backlog) -> None:
        """Called often."""
        ready, reason = self._watched.ready()
        self._wrong("not_ready", not ready, LASTS_S, reason=reason)
        link = self._watched.link()
        self._wrong("cloud_away", link != "connected", LASTS_S, reason=link)
        mqtt = self._watched.doors.get("mqtt", "connected")
        away = self._settings.mqtt_url is not None and mqtt != "connected"
        self._wrong("mqtt_away", away, LASTS_S, reason=mqtt)
        given_up = sum(backlog.given_up.values())
        if not any(backlog.rows.values()):
            self._given_up = given_up
        self._wrong("telemetry_given_up", given_up > self._given_up, 0, rows=given_up - self._given_up)
        if self._clock() - self._disk_at >= DISK_S:
            self._disk_at = self._clock()
            free = (await asyncio.to_thread(shutil.disk_usage, self._settings.data_dir)).free
            self._wrong("disk_low", free < DISK_FREE, 0, free_bytes=free)

    def _wrong(self, name: str, wrong: bool, lasts_s: float, **about: str | int) -> None:
        if not wrong:
            self._since.pop(name, None)
            return self._journal.alarm(name, raised=False)
        since = self._since.setdefault(name, self._clock())
        if self._clock() - since >= lasts_s:
            self._journal.alarm(name, raised=True, **about)
