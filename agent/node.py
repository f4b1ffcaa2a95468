"""This machine's agent: builds the rooms, connects them, and ends them in order."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from agent import __version__, gpu, log, systemd
from agent.access import Access
from agent.arrivals import Arrivals
from agent.canaries import Trial
from agent.cloud import Cloud, at_start
from agent.config import Settings
from agent.data_dir import only_one
from agent.doors.plugins import Doors
from agent.jwt_access import JwtAccess
from agent.memory import Memory
from agent.pulls import Report
from agent.reload import Reload
from agent.residents import Residents
from agent.serving import Serving
from agent.telemetry import Telemetry
from agent.templates import Templates
from cloud_sync.issuer import Issuer
from models.manifest import Manifest
from models.shelf import Shelf

logger = structlog.get_logger()

RESTART_S = 60.0  # how long a quiet moment is waited for


class Node:
    """What the doors see of the agent."""

    def __init__(self, settings: Settings, report: Report | None = None) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.access = Access(settings.api_keys, _tokens(settings, self.telemetry))
        self.templates = Templates()
        self.serving = Serving(self.telemetry)
        self.shelf = Shelf(settings.data_dir / "models")
        self.residents = Residents(
            settings, self.serving, self.shelf, self.telemetry, self.templates, Memory(gpu.find()), report
        )
        self._arrivals = Arrivals(settings, self.shelf, self.residents)
        self._doors = Doors(self)
        self.restarts = asyncio.Event()  # it ends only to start again
        self.doors: dict[str, str] = {}  # what a door says of itself, for `/status`
        self._cloud = Cloud(settings, self)
        self.listening = asyncio.Event()  # the HTTP door does
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    def status(self) -> dict[str, Any]:
        """The whole of `/status`; no secret in it."""
        ready, reason = self.serving.ready()
        return {
            "node": self.settings.node,
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "ready": ready,
            "reason": reason or None,
            **self.serving.status(),
            "doors": self.doors,
            "cloud": self._cloud.status(),
            "telemetry": self._cloud.telemetry(),
            "settings": self.settings.public(),
        }

    async def pull(
        self, source: str, name: str | None = None, *, quantize: bool = False, trial: Trial | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Put a Version on the shelf, and serve or try it if it is of a Model served. Rows of progress."""
        async for row in self._arrivals.pull(source, name, quantize, trial):
            yield row

    async def remove(self, name: str) -> list[Manifest]:
        """Take a Model, or one Version, off the shelf: what went. Not what is served."""
        return await self.residents.remove(name)

    async def load(self, name: str) -> None:
        """Load `model` or `model:version` now. ModelError where it cannot be."""
        await self.residents.load_named(name)

    async def unload(self, name: str) -> None:
        """Free a Model's memory. NotOnShelf."""
        await self.residents.unload(name)

    async def begin_trial(self, name: str, trial: Trial) -> None:
        """Let `model:version` have a part of the Model's traffic, or none and be its shadow."""
        await self.residents.canaries.begin(name, trial)

    async def promote(self, name: str) -> str:
        """A canary becomes the stable Version: which."""
        return await self.residents.canaries.promote(name)

    async def abort(self, name: str) -> list[str]:
        """Canaries go: which."""
        return await self.residents.canaries.abort(name)

    # What other settings ask of it: in_force.Rooms.

    @property
    def reload(self) -> Reload:
        return self.residents.reload

    def reopen(self, door: str) -> None:
        """With the settings as they are now."""
        self._doors.restart(door)

    def reconnect(self) -> None:
        """To the controller, as the settings say now."""
        self._cloud.reconnect()

    def trouble(self, part: str) -> str:
        """Why `models` or `mqtt` is not well; "" where it is."""
        if part == "mqtt":
            says = self.doors.get("mqtt", "it is not connected yet")
            return "" if self.settings.mqtt_url is None or says == "connected" else f"mqtt: {says}"
        default = self.serving.find("")
        if default and default.remote:  # what another server does says nothing of our settings
            return ""
        return self.serving.ready()[1]

    def restart(self) -> None:
        """End at a quiet moment, only to start again with other settings. Returns at once."""
        self.restarts.set()

    def stop(self) -> None:
        """Once: let running answers end first. Twice: end now."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def run(self) -> None:
        self.telemetry.journal.event("start", version=__version__)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (
                        self.residents.run(),
                        self.serving.shadow.run(),
                        self._tell_systemd(),
                        self._watchdog(),
                        self._doors.serve(),
                        self._cloud.run(),
                        self.access.run(),
                        self.templates.start(),
                        self._restart(),
                    )
                ]
                await self._stop.wait()
                await self._close()
                for task in tasks:
                    task.cancel()
        finally:
            await self.templates.close()
        logger.info("stopped")

    async def _restart(self) -> None:
        await self.restarts.wait()
        told = "starting again at a quiet moment, for settings that need it"
        logger.info(told, within_s=RESTART_S)
        until = time.monotonic() + RESTART_S
        while self.serving.busy() and time.monotonic() < until:  # noqa: ASYNC110 - it is busy in many ways
            await asyncio.sleep(0.05)
        self._stop.set()

    async def _close(self) -> None:
        """In order: nothing new comes in, what runs may end, the Worker goes."""
        self.telemetry.journal.event("stop", to_restart=self.restarts.is_set())
        if not self.restarts.is_set():
            systemd.notify("STOPPING=1")
        self.serving.close()
        if running := self.serving.status()["running"]:
            logger.info(
                "stopping: running answers may end; a second signal ends them now",
                running=running,
                within_s=self.settings.drain_s,
            )
        drained = asyncio.ensure_future(self.serving.drain(self.settings.drain_s))
        hurried = asyncio.ensure_future(self._stop_now.wait())
        try:
            await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            hurried.cancel()
        await self.residents.close()
        self.serving.abandon()
        await asyncio.sleep(0)  # the doors hear of it before they are closed

    async def _tell_systemd(self) -> None:
        await self.residents.settled.wait()
        await self.listening.wait()
        ready, reason = self.serving.ready()
        systemd.notify("READY=1", f"STATUS={'serving' if ready else reason}")

    async def _watchdog(self) -> None:
        """Fed while this loop and the supervisor make progress; a model's health is not its business."""
        interval = systemd.watchdog_interval()
        while interval:
            await asyncio.sleep(interval)
            if self.residents.alive(interval):
                systemd.notify("WATCHDOG=1")


def _tokens(settings: Settings, telemetry: Telemetry) -> JwtAccess | None:
    """None: there is no issuer of JWTs."""
    if settings.jwt_issuer is None:
        return None
    issuer = Issuer(
        settings.jwt_issuer,
        settings.jwt_audience,
        cache=settings.data_dir / "jwt-keys.json",
        jwks_url=settings.jwt_jwks_url,
        ca=settings.jwt_ca_file,
    )
    return JwtAccess(settings, issuer, telemetry)


async def run(settings: Settings, report: Report | None = None) -> bool:
    """Serve until SIGTERM or SIGINT: whether to start again. `report` hears of the first pull's progress."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each caller is a file, and so is a Worker
    with only_one(settings.data_dir):
        settings = await asyncio.to_thread(at_start, settings)
        log.configure(settings.log_level, settings.log_format)
        node = Node(settings, report)
        await node.run()
        return node.restarts.is_set()
