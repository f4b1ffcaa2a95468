"""Receivers of notices, as operators add and remove them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import BaseModel
from sqlalchemy import func, select

from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.errors import Conflict, Invalid, NotFound
from cloud_sync.controller.notices import webhook
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.hooks import Hook
from cloud_sync.controller.store.telemetry_tables import FleetEvent
from models.address import without_login

MQTT = "mqtt"
MOST = 50


class HookRow(BaseModel):
    id: str
    url: str
    kinds: list[str]
    """Of events; none: all."""
    made_by: str
    made_at: float
    waiting: int
    """Events that were not delivered yet."""
    failures: int
    problem: str


class MadeHook(BaseModel):
    id: str
    secret: str
    """It is shown once."""


class Hooks:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, actor: Actor, url: str, kinds: Sequence[str], secret: str | None) -> MadeHook:
        """It is told of what happens from now on. Invalid, Conflict."""
        secret = secret or webhook.new_secret()
        _check(url, secret)
        async with self._store.write() as session:
            if (await session.scalar(select(func.count()).select_from(Hook)) or 0) >= MOST:
                raise Conflict("too_many", f"there are {MOST} hooks already")
            made = Hook(
                id=secrets.token_hex(4),
                url=url,
                secret=secret,
                kinds=",".join(kinds),
                made_by=actor.name,
                made_at=self._store.now(),
                sent=await session.scalar(select(func.max(FleetEvent.id))) or 0,
            )
            session.add(made)
            record(session, self._store.now(), actor, "hook.added", made.id, url=without_login(url))
        return MadeHook(id=made.id, secret=secret)

    async def remove(self, actor: Actor, id: str) -> None:
        """NotFound."""
        async with self._store.write() as session:
            found = await session.get(Hook, id)
            if found is None or id == MQTT:
                raise NotFound("no_such_hook", f"there is no hook {id!r}: `autoglm cloud hooks list`")
            await session.delete(found)
            record(session, self._store.now(), actor, "hook.removed", id, url=without_login(found.url))

    async def all(self) -> list[HookRow]:
        waiting = select(func.count()).where(FleetEvent.id > Hook.sent).scalar_subquery()
        async with self._store.read() as session:
            found = await session.execute(select(Hook, waiting).order_by(Hook.made_at))
            return [
                HookRow(
                    id=hook.id,
                    url=without_login(hook.url),
                    kinds=hook.kinds.split(",") if hook.kinds else [],
                    made_by=hook.made_by,
                    made_at=hook.made_at,
                    waiting=count,
                    failures=hook.failures,
                    problem=hook.problem,
                )
                for hook, count in found
            ]

    async def settle_mqtt(self, url: str) -> None:
        """As this controller's settings say; empty: no MQTT. What is not delivered yet waits in between."""
        async with self._store.write() as session:
            found = await session.get(Hook, MQTT)
            if found is not None:
                found.url = without_login(url)
            elif url:
                last = await session.scalar(select(func.max(FleetEvent.id))) or 0
                one = Hook(
                    id=MQTT, url=without_login(url), secret="", kinds="", made_by="settings", sent=last
                )
                one.made_at = self._store.now()
                session.add(one)


def _check(url: str, secret: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Invalid("bad_url", "a hook is an http:// or https:// URL")
    try:
        webhook.key_of(secret)
    except ValueError as error:
        raise Invalid("bad_secret", str(error)) from None
