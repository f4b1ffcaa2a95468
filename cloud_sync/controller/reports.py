"""What nodes report, and what they are answered. A report is the heartbeat too.

What many nodes say at one time is one transaction, and each is answered after its commit.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Forbidden, Invalid, Refused
from cloud_sync.controller.gather import Gather
from cloud_sync.controller.joining import refusal, standing
from cloud_sync.controller.places import Place, certificates, find, put_down
from cloud_sync.controller.said import Dropped, Opened, Reported, Said, is_ahead, is_cloned, is_credible
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Certificate, Fleet
from cloud_sync.identity import Holder
from cloud_sync.messages import Answer, Desired, Report

MISSED = 3  # heartbeats in a row, and a node is lost


class Reports:
    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings
        self._group: Gather[Said, Answer] = Gather(self._commit)

    async def take(self, holder: Holder, report: Report, address: str) -> Answer:
        """Keep it, and say what is to be had. Refused."""
        return await self._group.add(Reported(holder, address, report))

    async def opened(self, holder: Holder, address: str) -> str:
        """The node listens to hints; the name of its stream. Refused."""
        stream = secrets.token_hex(8)
        await self._group.add(Opened(holder, address, stream))
        return stream

    async def dropped(self, holder: Holder, stream: str) -> None:
        """The node listens no longer: unless it returns soon, it is lost. Refused."""
        await self._group.add(Dropped(holder, "", stream))

    async def desired(self, holder: Holder) -> Desired:
        """Refused."""
        async with self._store.read() as session:
            node = await standing(session, holder)
            fleet = await session.get_one(Fleet, 1)
        return Desired(
            epoch=fleet.epoch,
            generation=node.generation,
            settings=node.desired,
            heartbeat_s=float(node.desired.get("heartbeat_s") or self._settings.heartbeat_s),
        )

    async def _commit(self, group: Sequence[Said]) -> list[Answer | Exception]:
        async with self._store.write() as session:
            now = self._store.now()
            places, epoch = await find(session, {one.holder.node for one in group})
            known = await certificates(session, {one.holder.serial for one in group})
            refused: list[Refused | None] = []
            for one in group:
                place = places.get(one.holder.node)
                refused.append(self._hear(session, now, place, epoch, known, one))
            ahead = [
                one
                for one, why in zip(group, refused, strict=True)
                if why is None and isinstance(one, Reported) and is_ahead(one, places, epoch)
            ]
            if ahead:
                epoch = await self._open_epoch(session, now, ahead, places)
            await put_down(session, places.values())
        return [
            why or self._answer(places[one.holder.node], epoch, now)
            for one, why in zip(group, refused, strict=True)
        ]

    def _hear(
        self,
        session: AsyncSession,
        now: float,
        place: Place | None,
        epoch: int,
        known: dict[str, float | None],
        one: Said,
    ) -> Refused | None:
        """Take note of it in `place`. Why it counts for nothing, if so."""
        holder = one.holder
        if place is not None and holder.serial not in known:  # issued after the backup that is in force
            known[holder.serial] = None
            session.add(
                Certificate(serial=holder.serial, node=holder.node, key="", not_after=holder.not_after)
            )
        if why := refusal(place.state if place else None, known.get(holder.serial, now)):
            return why
        assert place is not None  # noqa: S101 - for the type checker: it has a state
        if isinstance(one, Dropped):
            if place.stream == one.stream and place.due_at is not None:
                place.due_at = min(place.due_at, now + self._settings.stream_lost_s)
                place.changed = True
            return None
        actor = Actor(f"node:{place.name}", one.address)
        if isinstance(one, Reported):
            if not is_credible(one.report, epoch):
                return Invalid("bad_epoch", f"there is no epoch {one.report.epoch}: this one is {epoch}")
            if is_cloned(place, one.report):
                place.state, place.changed = "cloned", True
                record(session, now, actor, "node.cloned", place.name)
                record_event(session, now, place.name, "node.cloned", {"address": one.address})
                return Forbidden("cloned", "two machines use this identity: each must join anew")
            if (one.report.boot, one.report.number) != (place.boot, place.number):
                return None  # it was on its way too long: another has told since
            place.reported = one.report
        else:
            place.stream = one.stream
        self._is_there(session, now, place, one.address)
        return None

    def _is_there(self, session: AsyncSession, now: float, place: Place, address: str) -> None:
        if place.state == "lost":
            body = {"address": address, "silent_s": round(now - (place.seen_at or now), 3)}
            record_event(session, now, place.name, "node.returned", body)
            place.state = "active"
        place.seen_at, place.address, place.changed = now, address, True
        place.due_at = now + MISSED * self._heartbeat_s(place)

    async def _open_epoch(
        self, session: AsyncSession, now: float, ahead: Sequence[Reported], places: Mapping[str, Place]
    ) -> int:
        """A backup was restored, and nodes know more: the epoch from now on."""
        fleet = await session.get_one(Fleet, 1, with_for_update=True, populate_existing=True)
        for one in ahead:
            if is_ahead(one, places, fleet.epoch):
                fleet.epoch = max(fleet.epoch, one.report.epoch) + 1
                actor = Actor(f"node:{places[one.holder.node].name}", one.address)
                record(session, now, actor, "epoch.opened", str(fleet.epoch))
        return fleet.epoch

    def _answer(self, place: Place, epoch: int, now: float) -> Answer:
        heartbeat_s = self._heartbeat_s(place)
        return Answer(epoch=epoch, generation=place.generation, heartbeat_s=heartbeat_s, now=now)

    def _heartbeat_s(self, place: Place) -> float:
        return place.heartbeat_s or self._settings.heartbeat_s
