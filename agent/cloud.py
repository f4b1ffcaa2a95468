"""The node's place in a fleet: runs the link, and applies what it brings to this agent."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import structlog

from agent import __version__
from agent import log as logs
from agent.config import Settings
from agent.recorder import Recorder
from agent.serving import Serving
from agent.telemetry import Telemetry
from cloud_sync.host import Facts
from cloud_sync.link import Link
from cloud_sync.membership import Membership, NotJoined
from cloud_sync.messages import Item, ModelReport
from cloud_sync.settings import DesiredSettings

TELEMETRY = {"telemetry_quota_mb", "telemetry_bytes_per_s", "telemetry_period_s"}
LIVE = frozenset(
    {"log_level", "heartbeat_s", "log_excerpts", "prompt_samples", "redact_patterns"} | TELEMETRY
)
AGAIN_S = 5.0  # how soon the link begins again where it failed
log = structlog.get_logger()


class Agent(Protocol):
    """What of the node is to be told, and asked."""

    serving: Serving
    telemetry: Telemetry
    doors: dict[str, str]

    def restart(self) -> None: ...


class Cloud:
    def __init__(self, settings: Settings, agent: Agent) -> None:
        self._settings, self._agent = settings, agent
        self._began = time.monotonic()
        self._link: Link | None = None
        self._fleet: dict[str, str] = {}
        self.doors = agent.doors
        self._recorder = Recorder(settings, agent.telemetry, self)

    def status(self) -> dict[str, Any] | None:
        """For `/status`; None: this machine is no node of a fleet."""
        return {**self._fleet, "link": self._link.says} if self._link else None

    def telemetry(self) -> dict[str, Any] | None:
        """For `/status`: what waits for the controller; None: nothing is kept."""
        return self._recorder.status()

    async def run(self) -> None:
        """Until cancelled. A link that fails takes nothing with it."""
        while True:
            try:
                membership = await asyncio.to_thread(Membership, self._settings.cloud_dir)
                self._fleet = {"url": membership.fleet.url, "name": membership.fleet.name}
                self._link = Link(membership, self, self._recorder.drain)
                async with asyncio.TaskGroup() as group:
                    recording = group.create_task(self._recorder.run())
                    await self._link.run()
                    recording.cancel()
                log.info("this machine has left the fleet", url=membership.fleet.url)
                self._link = None
                self._recorder.forget()
            except NotJoined:
                self._recorder.forget()
            except Exception:  # ours: it must cost no more than the link
                log.exception("the link failed", again_in_s=AGAIN_S)
            await asyncio.sleep(AGAIN_S)

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

    async def apply(self, settings: dict[str, Any]) -> dict[str, Item]:
        """A setting that was taken away becomes what it is without the cloud."""
        try:
            wanted = await asyncio.to_thread(self._settings.anew)
        except (ValueError, OSError) as error:
            return {name: Item(state="failed", reason=str(error)[:1000]) for name in settings}
        items = {name: self._become(name, wanted) for name in settings}
        for name in DesiredSettings.model_fields.keys() & Settings.model_fields.keys() - settings.keys():
            if getattr(wanted, name) != getattr(self._settings, name):
                items[name] = self._become(name, wanted)
        return items

    def restart(self) -> None:
        log.info("starting again, for settings that need it")
        self._agent.restart()

    def _become(self, name: str, wanted: Settings) -> Item:
        if name not in Settings.model_fields:  # of the link itself
            return Item(state="applied")
        if over := wanted.overrides(name):
            return Item(state="overridden", reason=f"the node's own: {over}")
        if getattr(self._settings, name) == getattr(wanted, name):
            return Item(state="applied")
        if name not in LIVE:
            return Item(state="needs_restart")
        setattr(self._settings, name, getattr(wanted, name))
        if name == "log_level":
            logs.configure(self._settings.log_level, self._settings.log_format)
        return Item(state="applied")
