"""The node's place in a fleet: runs the link, and applies what it brings to this agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import structlog

from agent import __version__, in_force
from agent.config import Settings
from agent.in_force import Rooms
from agent.recorder import Recorder
from agent.serving import Serving
from agent.telemetry import Telemetry
from cloud_sync import twin_file
from cloud_sync.host import Address, Facts
from cloud_sync.link import Link
from cloud_sync.membership import Damaged, Membership, NotJoined
from cloud_sync.messages import Item, ModelReport

AGAIN_S = 5.0  # how soon the link begins again where it failed
log = structlog.get_logger()


class Agent(Rooms, Protocol):
    """What of the node is to be told, asked and changed."""

    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def doors(self) -> dict[str, str]: ...

    @property
    def serving(self) -> Serving: ...
    def restart(self) -> None: ...


class Cloud:
    def __init__(self, settings: Settings, agent: Agent) -> None:
        self._settings, self._agent = settings, agent
        self._began = time.monotonic()
        self._link: Link | None = None
        self._fleet: dict[str, str] = {}
        self._trouble = ""
        self.doors = agent.doors
        self._recorder = Recorder(settings, agent.telemetry, self)

    def status(self) -> dict[str, Any] | None:
        """For `/status`; None: this machine is no node of a fleet."""
        if self._link is None and not self._trouble:
            return None
        there = {"url": self._settings.cloud_url or self._fleet["url"]} if self._fleet else {}
        says = self._trouble or (self._link.says if self._link else "")
        return {**self._fleet, **there, "link": says}

    def telemetry(self) -> dict[str, Any] | None:
        """For `/status`: what waits for the controller; None: nothing is kept."""
        return self._recorder.status()

    async def run(self) -> None:
        """Until cancelled. A link that fails takes nothing with it."""
        while True:
            try:
                membership = await asyncio.to_thread(Membership, self._settings.cloud_dir)
                self._fleet = {"url": membership.fleet.shown, "name": membership.fleet.name}
                self._link, self._trouble = Link(membership, self, self._recorder.drain), ""
                async with asyncio.TaskGroup() as group:
                    recording = group.create_task(self._recorder.run())
                    await self._link.run()
                    recording.cancel()
                log.info("this machine has left the fleet", url=membership.fleet.url)
                self._link = None
                self._recorder.forget()
            except NotJoined:
                self._link, self._trouble = None, ""
                self._recorder.forget()
            except Damaged as error:
                self._failed(str(error))
            except Exception as error:  # ours: it must cost no more than the link
                log.exception("the link failed", again_in_s=AGAIN_S)
                self._failed(f"it failed: {error}")
            await asyncio.sleep(AGAIN_S)

    def _failed(self, why: str) -> None:
        if why != self._trouble:
            log.error("no link to the controller", reason=why)
        self._trouble = why

    # What the link asks: cloud_sync.host.Host.

    def ready(self) -> tuple[bool, str]:
        return self._agent.serving.ready()

    def link(self) -> str:
        """What it says of itself; for the alarms."""
        return self._link.says if self._link else ""

    def happened(self, kind: str, **body: Any) -> None:
        self._agent.telemetry.journal.update(kind, **body)

    def facts(self) -> Facts:
        rows = self._agent.serving.status()["models"]
        models = [
            ModelReport(name=row["name"], version=row["version"], state=row["worker"]["state"])
            for row in rows
        ]
        return Facts(__version__, time.monotonic() - self._began, models)

    def address(self) -> Address:
        return Address(self._settings.cloud_url, self._settings.cloud_proxy)

    def watched(self, names: set[str]) -> list[str]:
        return sorted(part for part in in_force.parts(names) if not self.trouble(part))

    def trouble(self, part: str) -> str:
        return self._agent.trouble(part)

    def trial_s(self) -> float:
        return self._settings.trial_s

    def apply(self, settings: dict[str, Any]) -> AsyncIterator[dict[str, Item]]:
        return in_force.take(settings, self._agent)

    def restart(self) -> None:
        self._agent.restart()

    # What the node asks.

    def reconnect(self) -> None:
        """To the controller, as the settings say now."""
        if self._link:
            self._link.reconnect()


def at_start(settings: Settings) -> Settings:
    """Count the start, before a document on trial is tried: the settings, without it if it was taken back.

    While no other agent has this data folder. Waits on the disk.
    """
    if not settings.cloud_dir.is_dir():
        return settings
    try:
        back = twin_file.begin(settings.cloud_dir)
    except OSError as error:
        log.error("the start cannot be counted", error=str(error))
        return settings
    return settings.anew() if back else settings
