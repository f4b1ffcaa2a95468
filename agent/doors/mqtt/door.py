"""The MQTT door: prompts in, results out, through a broker and the node's database.

    broker -> _receive -> state.accept (commit) -> _acknowledge (PUBACK, in the order of arrival)
              Runs: state.claim -> serving -> state.finish (result + outbox row, one commit)
              Outbox: row -> broker -> PUBACK -> state.delivered

From the PUBACK of a prompt on, it has one distinct result. Nothing here ever stops the agent: a broker that
is away is asked again; a disk without room is waited for, disconnected, because brokers redeliver only to a
new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from pathlib import Path

import structlog

from agent import __version__
from agent.doors.mqtt.broker import BrokerError, EmbeddedBroker
from agent.doors.mqtt.intake import encode
from agent.doors.mqtt.link import Link, LinkError, Will
from agent.doors.mqtt.outbox import Outbox
from agent.doors.mqtt.receiver import Receiver
from agent.doors.mqtt.runs import Out, Runs
from agent.doors.mqtt.topics import Topics
from agent.doors.node_face import Node
from cloud_sync.state import State, StateError

STATUS_S = 1.0  # how often the status is compared with what was published
PURGE_S = 600.0
BACKOFF_S, BACKOFF_MOST_S = 0.5, 60.0

log = structlog.get_logger()


async def serve(node: Node) -> None:
    """Until cancelled. Waits for a database that cannot be opened, and for a broker that is not there."""
    while True:
        try:
            await _serve(node)
        except Exception:  # the other doors must not go with this one
            log.exception("the mqtt door failed", again_in_s=BACKOFF_MOST_S / 6)
            node.doors["mqtt"] = "failed: see the log"
        await asyncio.sleep(BACKOFF_MOST_S / 6)


async def _serve(node: Node) -> None:
    state = await _open(node)
    if state.set_aside is not None:
        node.telemetry.journal.event("database_lost", what="state", file=state.set_aside.name)
    try:
        async with asyncio.TaskGroup() as group:
            door = Door(node, state, await asyncio.to_thread(_install_id, node.settings.data_dir))
            group.create_task(door.run())
            group.create_task(_purge(state))
    finally:
        await state.close()


class Door:
    """Connects, and again. What outlives a connection: the runs, and the outbox."""

    def __init__(self, node: Node, state: State, install_id: str) -> None:
        self._node, self._state = node, state
        self._topics = Topics(node.settings.node)
        self._client_id = f"{node.settings.node}-{install_id}"
        self._broker = EmbeddedBroker(node.settings) if node.settings.mqtt_url == "embedded" else None
        self._url = self._broker.url if self._broker else node.settings.mqtt_url or ""
        self._link: Link | None = None  # while connected
        self._outbox = Outbox(state, node.telemetry)
        out = Out(self._send_tokens, self._outbox.wake)
        self._runs = Runs(node.settings, node.serving, node.telemetry, state, self._topics, out)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._runs.run())
                await self._stay_connected()
        finally:
            if self._broker:
                await self._broker.stop()

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            try:
                if self._broker:
                    await self._broker.ensure()
                await self._session()
            except* (LinkError, BrokerError) as problems:
                problem = _first(problems)
                slow = isinstance(problem, LinkError) and problem.slow
                failures = 1 if self._link else failures + 1
                wait = BACKOFF_MOST_S if slow else min(BACKOFF_MOST_S, BACKOFF_S * 2**failures)
                wait *= random.uniform(0.5, 1)  # noqa: S311
                log.warning("mqtt broker away", reason=str(problem), again_in_s=round(wait, 1))
                self._node.doors["mqtt"] = f"away: {problem}"
            except* StateError as problems:
                log.error("mqtt message not kept, so not acked", reason=str(_first(problems)))
                self._node.doors["mqtt"] = f"no room: {_first(problems)}"
                wait = 0.0
                await self._room()
            except* Exception:  # the runs go on, and the next session may do better
                failures += 1
                wait = min(BACKOFF_MOST_S, BACKOFF_S * 2**failures)
                log.exception("the mqtt session failed", again_in_s=wait)
                self._node.doors["mqtt"] = "failed: see the log"
            self._link = None
            self._node.telemetry.mqtt_connected.set(0)
            await asyncio.sleep(wait)

    async def _session(self) -> None:
        """One connection, until it ends: always by LinkError or StateError, or by being cancelled."""
        receiver = Receiver(self._node, self._state, self._topics, self._committed)
        link = Link(
            self._node.settings,
            self._url,
            self._client_id,
            Will(self._topics.status, self._status("offline")),
            receiver.put,
            self._outbox.published,
        )
        try:
            async with asyncio.TaskGroup() as group:
                await link.connect(self._topics.inputs)
                log.info("mqtt connected", client_id=self._client_id)
                self._node.doors["mqtt"] = "connected"
                self._link = link
                self._node.telemetry.mqtt_connected.set(1)
                group.create_task(receiver.run(link))
                group.create_task(self._outbox.run(link))
                group.create_task(self._tell_status(link))
                raise await link.ended()
        finally:
            link.publish_status(self._topics.status, self._status("offline"))
            await link.close()

    def _committed(self) -> None:
        self._runs.wake()
        self._outbox.wake()

    async def _room(self) -> None:
        """Wait until the database can be written again."""
        wait = BACKOFF_S
        while True:
            await asyncio.sleep(wait)
            with contextlib.suppress(StateError):
                return await self._state.probe()
            wait = min(2 * wait, BACKOFF_MOST_S / 6)

    async def _tell_status(self, link: Link) -> None:
        told = b""
        while True:
            if (now := self._status("online")) != told:
                link.publish_status(self._topics.status, now)
                told = now
            await asyncio.sleep(STATUS_S)

    def _status(self, state: str) -> bytes:
        serving = self._node.serving
        ready, reason = serving.ready()
        return encode(
            {
                "state": state,
                "node": self._node.settings.node,
                "version": __version__,
                "ready": ready and state == "online",
                "reason": reason or None,
                "models": [offered.name for offered in serving.offered()],
                "set_aside": self._state.set_aside.name if self._state.set_aside else None,
            }
        )

    def _send_tokens(self, topic: str, payload: bytes) -> None:
        sent = self._link is not None and self._link.publish_tokens(topic, payload)
        self._node.telemetry.mqtt_messages.labels(kind="tokens" if sent else "tokens_dropped").inc()


async def _open(node: Node) -> State:
    settings = node.settings
    while True:
        try:
            return await asyncio.to_thread(
                State, settings.data_dir / "state.db", keep_s=lambda: settings.results_keep_s
            )
        except (StateError, OSError) as error:
            log.error("the database cannot be opened: no mqtt", reason=str(error), again_in_s=BACKOFF_MOST_S)
            await asyncio.sleep(BACKOFF_MOST_S)


async def _purge(state: State) -> None:
    while True:
        with contextlib.suppress(StateError):  # next time
            while (gone := await state.purge()).results + gone.undelivered:
                log.info("old results purged", results=gone.results, undelivered=gone.undelivered)
        await asyncio.sleep(PURGE_S)


def _install_id(data_dir: Path) -> str:
    """This installation's own, so that two nodes of one name do not end each other's sessions."""
    path = data_dir / "install_id"
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.write_text(secrets.token_hex(6))
        fresh.replace(path)
    return path.read_text().strip()


def _first(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    problem = problems.exceptions[0]
    return _first(problem) if isinstance(problem, BaseExceptionGroup) else problem
