"""Versions on trial beside the stable one: begun, promoted, aborted, and remembered across restarts.

`canaries.json` says of each Model that has some which Version is the stable one, whatever is the newest on
the shelf, and the canaries with their parts. It is written before a canary comes to the shelf; what is
decided in the end is written to the shelf (`Shelf.prefer`) before it goes. So a crash leaves the stable
Version stable.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from pydantic import BaseModel, TypeAdapter

from agent.errors import BadRequest
from agent.offered import Offered
from agent.places import Span
from agent.replica import Prepared
from agent.resident import Resident, describe
from agent.route import Live
from models import disk
from models.errors import ModelError, NotOnShelf
from models.shelf import Shelf, Version, split_name

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trial:
    """How a canary is tried: with a part of the traffic, or as a shadow."""

    weight: float = 0.0  # percent
    shadow: bool = False


class Canary(BaseModel):
    """As it is kept."""

    version: str
    weight: float
    shadow: bool
    spans: list[Span] = []  # the sessions that are its own; earlier agents kept none


class Kept(BaseModel):
    """What is kept of a Model that has canaries, or is about to get one."""

    stable: str
    canaries: list[Canary]


T = TypeVar("T")
All = TypeAdapter(dict[str, Kept])


class Whole(Protocol):
    """Carries a change out as a whole, while nothing else changes; its outcome."""

    async def __call__(self, work: Callable[[], Awaitable[T]]) -> T: ...


class Canaries:
    """What takes a name is called from outside; the rest while nothing else changes.

    `find` gives the resident of a name; `ready` prepares a Version and makes room beside the stable one.
    """

    def __init__(
        self,
        file: Path,
        shelf: Shelf,
        whole: Whole,
        find: Callable[[str], Resident],
        ready: Callable[[Resident, Offered], Awaitable[Prepared]],
    ) -> None:
        self._file = file
        self._shelf = shelf
        self._whole = whole
        self._find = find
        self._ready = ready
        self._kept = _read(file)
        self._guarded: Counter[str] = Counter()  # Models for which a trial is being pulled

    async def guard(self, name: str) -> None:
        """What is about to be pulled for this Model is not to be served at once. NotOnShelf."""
        resident = self._find(name)
        self._guarded[resident.model] += 1
        await self._whole(lambda: self.keep(resident))

    async def unguard(self, name: str) -> None:
        """The pull has ended."""
        resident = self._find(name)
        self._guarded[resident.model] -= 1
        await self._whole(lambda: self.keep(resident))

    async def begin(self, name: str, trial: Trial) -> None:
        """Let `model:version` have a part of the Model's traffic. BadRequest, ModelError, OSError."""
        version = split_name(name)[1]
        if version is None:
            raise BadRequest(f"name the Version that is to be tried: {name}:VERSION", param="version")
        await self._whole(lambda: self._begin(self._find(name), version, trial))

    async def promote(self, name: str) -> str:
        """A canary becomes the stable Version: which. `model`, or `model:version` where there are several.

        BadRequest, ModelError (it is not well), OSError.
        """
        return await self._whole(lambda: self.make_stable(self._find(name), split_name(name)[1]))

    async def abort(self, name: str) -> list[str]:
        """The Model's canaries, or the one that is named, go: which. BadRequest, ModelError, OSError."""
        return await self._whole(lambda: self._abort(self._find(name), split_name(name)[1]))

    def stable(self, newest: Version) -> Version:
        """The Version to serve of a Model whose newest one is given. Waits on the disk."""
        kept = self._kept.get(newest.model)
        try:
            return self._shelf.get(newest.model, kept.stable) if kept else newest
        except NotOnShelf:
            return newest

    async def keep(self, resident: Resident) -> None:
        """As things are now."""
        stable = resident.route.model.version
        rows = [
            Canary(version=one.model.version, weight=one.weight, shadow=one.shadow, spans=one.spans)
            for one in resident.route.canaries
        ]
        now = dict(self._kept)
        if rows or self._guarded[resident.model]:
            now[resident.model] = Kept(stable=stable, canaries=rows)
        elif now.pop(resident.model, None):  # from now on the shelf alone tells
            await asyncio.to_thread(self._prefer, resident.model, stable)
        if now != self._kept:
            await asyncio.to_thread(disk.write_lasting, self._file, All.dump_json(now, indent=1))
            self._kept = now

    async def plan(self, resident: Resident) -> None:
        """What was on trial when the agent ended is again."""
        kept = self._kept.get(resident.model)
        for one in kept.canaries if kept else ():
            try:
                offered = await self._describe(resident.model, one.version)
            except (ModelError, OSError) as error:
                log.warning("a canary is gone", model=resident.model, error=str(error))
                continue
            if offered.version != resident.route.model.version and _alike(offered, resident):
                resident.plan(offered, one.weight, one.shadow, one.spans)

    async def load(self, resident: Resident) -> None:
        """Those that are not loaded, beside the stable Version, where there is memory."""
        for live in resident.resting_canaries():
            try:
                await resident.load_canary(live, await self._ready(resident, live.model))
            except (ModelError, OSError) as error:
                log.error("a canary is not loaded", model=resident.model, error=str(error))

    async def _begin(self, resident: Resident, version: str, trial: Trial) -> None:
        if version == resident.route.model.version:
            raise BadRequest(f"{version} is the Version of {resident.model} that serves", param="version")
        _check(resident, version, trial)
        offered = await self._describe(resident.model, version)
        if not _alike(offered, resident):
            raise BadRequest(f"{version} is a model of another kind", param="version")
        former = resident.route.find(version)
        before = (former.weight, former.shadow, former.spans) if former else None
        live = resident.plan(offered, trial.weight, trial.shadow)
        try:
            await self._load(resident, live)
        except (ModelError, OSError):
            if before:
                live.weight, live.shadow, live.spans = before
            else:
                resident.abort(live)
            raise
        await self.keep(resident)
        log.info("a canary", model=resident.model, version=version, weight=trial.weight, shadow=trial.shadow)

    async def make_stable(self, resident: Resident, version: str | None) -> str:
        """As `promote`."""
        live = _the_one(resident, version)
        promoted = live.model.version
        await self._load(resident, live)
        if resident.loaded and not live.ready()[0]:
            raise ModelError(f"{resident.model}:{promoted} is not promoted: {live.ready()[1]}")
        await asyncio.to_thread(self._prefer, resident.model, promoted)
        await resident.promote(live)
        await self.keep(resident)
        log.info("a canary was promoted", model=resident.model, version=promoted)
        return promoted

    async def _abort(self, resident: Resident, version: str | None) -> list[str]:
        going = [_the_one(resident, version)] if version else list(resident.route.canaries)
        if not going:
            raise BadRequest(f"{resident.model} has no canary")
        gone = [live.model.version for live in going]
        for live in going:
            resident.abort(live)
        await self.keep(resident)
        log.info("a canary was aborted", model=resident.model, versions=gone)
        return gone

    async def _load(self, resident: Resident, live: Live) -> None:
        """Where its Model is."""
        if resident.loaded and live in resident.resting_canaries():
            await resident.load_canary(live, await self._ready(resident, live.model))

    async def _describe(self, model: str, version: str) -> Offered:
        return await asyncio.to_thread(lambda: describe(self._shelf.get(model, version)))

    def _prefer(self, model: str, version: str) -> None:
        if self._shelf.get(model).version != version:
            self._shelf.prefer(self._shelf.get(model, version))


def _alike(offered: Offered, resident: Resident) -> bool:
    """Whether it is asked as the Model's stable Version is."""
    stable = resident.route.model
    return (offered.makes_tensors, offered.encoder, offered.pipeline is None) == (
        stable.makes_tensors,
        stable.encoder,
        stable.pipeline is None,
    )


def _check(resident: Resident, version: str, trial: Trial) -> None:
    weight, shadow = trial.weight, trial.shadow
    others = [one for one in resident.route.canaries if one.model.version != version]
    if shadow and weight:
        raise BadRequest("a shadow answers nobody, so it has no weight", param="weight")
    if shadow and any(one.shadow for one in others):
        raise BadRequest(f"{resident.model} has a shadow already: abort it first", param="shadow")
    if not shadow and not 0 < weight <= 100 - sum(one.weight for one in others):
        raise BadRequest(
            "the weights of all canaries are more than 0 and at most 100 percent", param="weight"
        )


def _the_one(resident: Resident, version: str | None) -> Live:
    canaries = resident.route.canaries
    found = [one for one in canaries if version in (None, one.model.version)]
    if len(found) == 1:
        return found[0]
    if not found:
        says = f"{version} is no canary of {resident.model}" if version else f"{resident.model} has no canary"
        raise BadRequest(says)
    names = ", ".join(f"{resident.model}:{one.model.version}" for one in canaries)
    raise BadRequest(f"{resident.model} has several canaries, name one: {names}")


def _read(file: Path) -> dict[str, Kept]:
    try:
        return All.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        told = "what was on trial is not known: the newest Versions serve"
        log.error(told, file=str(file), error=str(error))
        return {}
