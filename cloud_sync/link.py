"""The node's side of the link: tells how the node is, hears what it is to be. The node never needs it.

Reports go at each heartbeat and when there is news; hints come by a stream, behind which the answers to
reports tell the same. What is away is tried again with full jitter, so that a fleet does not come at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time

import structlog

from cloud_sync import kept
from cloud_sync.backoff import pause
from cloud_sync.follower import Follower
from cloud_sync.host import Host
from cloud_sync.membership import Membership, NotJoined
from cloud_sync.messages import MOST_MODELS, Answer, Report
from cloud_sync.renewal import Renewal
from cloud_sync.telemetry.drain import Drain
from cloud_sync.transports.choice import open_transport
from cloud_sync.transports.transport import LinkError, Rejected, Transport

HEARTBEAT_S = 300.0  # until the controller says otherwise
HEALTH_S = 2.0  # how often is looked whether the node is as ready as was told
SPREAD = 0.1  # of a heartbeat, at random
HELD_S = 5.0  # a stream of hints that held for less was none
REJECTED_S = 60.0  # how soon again where the identity is refused

log = structlog.get_logger()


class Link:
    def __init__(self, membership: Membership, host: Host, drain: Drain) -> None:
        self._membership, self._host, self._drain = membership, host, drain
        self._renewal = Renewal(membership)
        self._follower = Follower(membership.folder, host)
        self._boot = secrets.token_hex(8)
        self._number = 0
        self._told_ready = False
        self._heartbeat_s = HEARTBEAT_S
        self._fetch = asyncio.Event()
        self._renewed = asyncio.Event()
        self._said = "not connected yet"

    @property
    def says(self) -> str:
        """For `/status`."""
        return self._follower.trouble or self._said

    async def run(self) -> None:
        """Until cancelled, or the machine is a node no longer. Nothing else is disturbed by what happens."""
        await self._follower.start()
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(self._follower.run())
            while True:
                self._renewed.clear()
                try:
                    self._membership = await asyncio.to_thread(Membership, self._membership.folder)
                except NotJoined:
                    follower.cancel()
                    return
                self._renewal = Renewal(self._membership)
                transport = self._open()
                try:
                    async with asyncio.TaskGroup() as connected:
                        tasks = [
                            connected.create_task(work)
                            for work in (
                                self._report(transport),
                                self._listen(transport),
                                self._follow(transport),
                                self._renew(transport),
                                self._drain.run(transport, self._membership.fleet_id),
                            )
                        ]
                        await self._renewed.wait()  # another identity or address: other connections
                        for task in tasks:
                            task.cancel()
                finally:
                    await transport.close()

    def reconnect(self) -> None:
        """By the address that the host tells now."""
        self._renewed.set()

    def _open(self) -> Transport:
        now, there = self._membership, self._host.address()
        fleet = now.fleet.model_copy(update={"url": there.url or now.fleet.url})
        return open_transport(fleet, now.ca, now.identity, there.proxy)

    async def _report(self, transport: Transport) -> None:
        pauses = 0
        while True:
            self._follower.news.clear()
            self._number += 1
            damaged = await asyncio.to_thread(self._damaged)
            try:
                answer = await transport.report(self._facts(damaged))
            except (LinkError, Rejected) as error:
                self._lost(error)
                again_in_s = pause(pauses) if isinstance(error, LinkError) else REJECTED_S
                pauses += 1
                if await self._joins_anew(again_in_s):
                    return self._renewed.set()
                continue
            pauses = 0
            self._answered(answer)
            await self._until_news(self._heartbeat_s * random.uniform(1 - SPREAD, 1))  # noqa: S311

    async def _joins_anew(self, within_s: float) -> bool:
        """Whether the machine was given another identity, by command."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, HEALTH_S))
            if await asyncio.to_thread(self._membership.is_outdated):
                return True
        return False

    async def _until_news(self, seconds: float) -> None:
        """Of the document, or of the node's health; else until the heartbeat is due."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, HEALTH_S)):
                    await self._follower.news.wait()
            if self._follower.news.is_set() or self._host.ready()[0] != self._told_ready:
                return

    def _damaged(self) -> list[str]:
        folder = self._membership.folder
        return (kept.damaged(folder) + kept.damaged(folder.parent))[:100]

    def _facts(self, damaged: list[str]) -> Report:
        facts, twin = self._host.facts(), self._follower.twin
        self._told_ready, reason = self._host.ready()
        return Report(
            boot=self._boot,
            number=self._number,
            version=facts.version,
            uptime_s=round(facts.uptime_s),
            epoch=twin.newest.epoch if twin.newest else 0,
            generation=twin.newest.generation if twin.newest else 0,
            observed_generation=twin.observed,
            items=twin.items,
            ready=self._told_ready,
            reason=(reason or self._follower.trouble)[:1000],
            models=facts.models[:MOST_MODELS],
            damaged=damaged,
            backlog=self._drain.backlog,
        )

    def _answered(self, answer: Answer) -> None:
        self._follower.contact = time.monotonic()
        self._renewal.heard(answer.now)
        self._heartbeat_s = answer.heartbeat_s
        if self._said != "connected":
            log.info("the controller answers", url=self._membership.fleet.shown)
        self._said = "connected"
        self._drain.link(there=True)
        if self._is_news(answer.epoch, answer.generation):
            self._fetch.set()

    def _is_news(self, epoch: int, generation: int) -> bool:
        newest = self._follower.twin.newest
        return newest is None or (epoch, generation) > (newest.epoch, newest.generation)

    def _lost(self, error: Exception) -> None:
        if isinstance(error, Rejected):
            self._renewal.refused(error.code)
        if self._said == "connected" or self._said != str(error):
            log.warning("no link to the controller", reason=str(error))
        self._said = str(error)
        self._drain.link(there=False)

    async def _listen(self, transport: Transport) -> None:
        pauses = 0
        while True:
            began = time.monotonic()
            try:
                async for hint in transport.hints():
                    if hint is None or self._is_news(hint.epoch, hint.generation):
                        self._fetch.set()
            except (LinkError, Rejected) as error:
                log.debug("no hints", reason=str(error))
                if isinstance(error, Rejected):
                    self._follower.news.set()  # a report will hear why
            if time.monotonic() - began > HELD_S:
                pauses = 0
            await asyncio.sleep(pause(pauses))
            pauses += 1

    async def _follow(self, transport: Transport) -> None:
        while True:
            await self._fetch.wait()
            self._fetch.clear()
            try:
                found = await transport.desired(self._follower.twin.newest)
                if found is not None:
                    await self._follower.heard(found)
            except (LinkError, Rejected, OSError) as error:
                log.warning("desired could not be had", reason=str(error))
                await asyncio.sleep(pause(3))
                self._fetch.set()

    async def _renew(self, transport: Transport) -> None:
        await self._renewal.run(transport)
        self._renewed.set()
