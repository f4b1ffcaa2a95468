"""Takes other settings into force while the agent runs: the table below says who takes which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from agent import log as logs
from agent.config import Settings
from agent.errors import AgentError
from agent.reload import Reload
from cloud_sync.messages import Item
from cloud_sync.settings import LINK, DesiredSettings, named
from models.errors import ModelError, Unreachable

log = structlog.get_logger()


class Rooms(Protocol):
    """Of the agent, what can take other settings while it runs."""

    @property
    def settings(self) -> Settings: ...
    @property
    def reload(self) -> Reload: ...
    def reopen(self, door: str) -> None: ...
    def reconnect(self) -> None: ...
    def trouble(self, part: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Taker:
    """`take` is called where one of these is another now, `always` where one is set at all.

    It is given the settings of Models as they were, and raises ModelError, AgentError or OSError. Whoever is
    watched as `part` may suffer from it.
    """

    names: frozenset[str]
    take: Callable[[Rooms, Settings], Awaitable[None]]
    part: str = ""
    always: bool = False


async def _nothing(rooms: Rooms, former: Settings) -> None:
    """Whoever needs these asks for them each time."""


async def _logs(rooms: Rooms, former: Settings) -> None:
    logs.configure(rooms.settings.log_level, rooms.settings.log_format)


async def _mqtt(rooms: Rooms, former: Settings) -> None:
    rooms.reopen("mqtt")  # what it has accepted is in the database


async def _models(rooms: Rooms, former: Settings) -> None:
    await rooms.reload.settle({name: one.weights or () for name, one in former.models.items()})


async def _link(rooms: Rooms, former: Settings) -> None:
    rooms.reconnect()


AT_EACH_USE = {
    *("queue_requests", "queue_bytes", "queue_tokens", "max_tokens", "request_timeout_s", "priority"),
    *("drain_s", "anonymous_limit", "mqtt_sender_limit", "results_keep_s", "trial_s"),
    *("telemetry_quota_mb", "telemetry_bytes_per_s", "telemetry_period_s"),
    *("log_excerpts", "prompt_samples", "redact_patterns"),
}
OF_MODELS = {
    *("model", "models", "keep_alive", "max_batch_size", "opt_batch_size", "delay_ms", "context"),
    *("gpu_layers", "threads", "kv_type", "flash_attention", "step_target_ms", "prefill_piece"),
    *("worker_deadline_s", "load_deadline_s"),
}
OF_MQTT = {"mqtt_url", "mqtt_version", "embedded_port"}
RESTART = frozenset({"http_port", "grpc_port", "max_body_bytes", "body_timeout_s"})
"""These take another process."""

TAKERS = (
    Taker(frozenset(AT_EACH_USE), _nothing),
    Taker(frozenset({"log_level", "log_format"}), _logs),
    Taker(frozenset(OF_MQTT), _mqtt, part="mqtt"),
    Taker(frozenset(OF_MODELS), _models, part="models", always=True),
    Taker(LINK, _link),  # the last: what the others did is told by the former way, too
)
SETTABLE = DesiredSettings.model_fields.keys() & Settings.model_fields.keys()


def parts(names: Iterable[str]) -> set[str]:
    """What of the agent may suffer from changes of these."""
    tops = {name.partition(".")[0] for name in names}
    if tops & RESTART:
        return {"models", "mqtt"}
    return {taker.part for taker in TAKERS if taker.part and taker.names & tops}


async def take(settings: dict[str, Any], rooms: Rooms) -> AsyncIterator[dict[str, Item]]:
    """What has become of each setting from the cloud so far. See cloud_sync.host.Host.apply."""
    try:
        wanted = await asyncio.to_thread(rooms.settings.anew)
    except (ValueError, OSError) as error:
        yield dict.fromkeys(named(settings), Item(state="failed", reason=str(error)[:1000]))
        return
    items = _before(settings, rooms.settings, wanted)
    yield dict(items)
    for taker in TAKERS:
        mine = [name for name in items if name.partition(".")[0] in taker.names]
        other = {name for name in taker.names & SETTABLE if _differ(name, rooms.settings, wanted)}
        if not other and not (mine and taker.always):
            continue
        state = await _taken(taker, other, rooms, wanted)
        items |= {name: state for name in mine if items[name].state == "pending"}
        yield dict(items)
    there = named(settings)
    yield {name: item for name, item in items.items() if name in there or item.state != "applied"}


def _before(settings: dict[str, Any], now: Settings, wanted: Settings) -> dict[str, Item]:
    """Those that are set, and those that no longer are until they are as without the cloud."""
    items = {name: _item(name, now, wanted) for name in named(settings)}
    for name in SETTABLE - {name.partition(".")[0] for name in items}:
        if _differ(name, now, wanted):
            items[name] = Item(state="needs_restart" if name in RESTART else "pending")
    return items


def _item(name: str, now: Settings, wanted: Settings) -> Item:
    top = name.partition(".")[0]
    if top not in Settings.model_fields:  # of the link itself
        return Item(state="applied")
    if over := wanted.overrides(top):
        return Item(state="overridden", reason=f"the node's own: {over}")
    if top in RESTART:
        return Item(state="needs_restart" if _differ(top, now, wanted) else "applied")
    always = any(taker.always for taker in TAKERS if top in taker.names)
    return Item(state="pending" if always or _differ(top, now, wanted) else "applied")


def _differ(name: str, now: Settings, wanted: Settings) -> bool:
    return bool(getattr(now, name) != getattr(wanted, name))


async def _taken(taker: Taker, names: Iterable[str], rooms: Rooms, wanted: Settings) -> Item:
    former = rooms.settings.model_copy()
    rooms.settings.become(wanted, names)
    try:
        await taker.take(rooms, former)
    except Unreachable as error:  # the network's fault, not the document's
        return Item(state="pending", reason=str(error)[:1000])
    except (ModelError, AgentError, OSError) as error:
        log.warning("settings cannot come into force", settings=sorted(names), reason=str(error))
        return Item(state="failed", reason=str(error)[:1000])
    trouble = rooms.trouble(taker.part) if taker.always else ""
    return Item(state="pending", reason=trouble[:1000]) if trouble else Item(state="applied")
