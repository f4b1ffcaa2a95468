"""What one connection delivers: each message is kept, committed, then acked, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from agent.doors.mqtt.intake import Incoming, Refused, error_payload, read_acks, read_message, refusal
from agent.doors.mqtt.link import WINDOW, Link, Message
from agent.doors.mqtt.topics import Topics
from agent.doors.node_face import Node
from agent.doors.openai.strict_json import LARGE
from agent.errors import AgentError, BadRequest, Conflict, InternalError, ModelNotFound
from agent.serving import Serving
from cloud_sync.state import Accepted, Address, State

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Written:
    """A message on its way to the disk."""

    mid: int
    commit: asyncio.Future[Any]
    asked: Incoming | None = None


class Receiver:
    """`put` takes messages while `run` runs, which ends with StateError where one could not be kept."""

    def __init__(self, node: Node, state: State, topics: Topics, on_commit: Callable[[], None]) -> None:
        self._node, self._state, self._topics, self._on_commit = node, state, topics, on_commit
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()
        self._written: asyncio.Queue[_Written] = asyncio.Queue()

    def put(self, message: Message) -> None:
        """The broker holds QoS 1 back while a window of them is not acked; QoS 0 is only bounded here."""
        if not message.mid and self._arrived.qsize() >= WINDOW:
            self._count("dropped")
        else:
            self._arrived.put_nowait(message)

    async def run(self, link: Link) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._acknowledge(link))
            while True:
                written = await self._write(await self._arrived.get())
                written.commit.add_done_callback(self._committed)
                self._written.put_nowait(written)

    async def _write(self, message: Message) -> _Written:
        self._count("received")
        try:
            return await self._judge(message)
        except Exception:  # left unacked, the broker would send it again at every restart
            log.exception("an mqtt message could not be judged", topic=message.topic)
            return self._refuse(message, InternalError("something went wrong inside the node"))

    async def _judge(self, message: Message) -> _Written:
        if message.topic.startswith(self._topics.acks):
            return self._write_acks(message)
        try:
            if len(message.payload) > LARGE:
                asked = await asyncio.to_thread(self._read, message)
            else:
                asked = self._read(message)
        except Refused as refused:
            self._count("refused")
            log.info("mqtt message refused", reason=str(refused), topic=message.topic)
            post = self._state.post(refused.address, refused.payload, refused.unless)
            return _Written(message.mid, post)
        commit = self._state.accept(
            asked.sender,
            asked.id,
            asked.body,
            asked.address,
            model=asked.model if asked.tensors else None,
            header_length=asked.header_length,
        )
        return _Written(message.mid, commit, asked)

    def _read(self, message: Message) -> Incoming:
        asked = read_message(message, self._topics, self._node.settings)
        try:
            _check_model(asked, self._node.serving)
        except AgentError as error:
            reply = message.response_topic
            raise refusal(error, message, self._topics, asked.sender, asked.id, reply) from error
        return asked

    def _write_acks(self, message: Message) -> _Written:
        try:
            sender, ids = read_acks(message, self._topics)
        except BadRequest as error:
            return self._refuse(message, error)
        return _Written(message.mid, self._state.acknowledged(sender, ids))

    def _refuse(self, message: Message, error: AgentError) -> _Written:
        self._count("refused")
        return _Written(message.mid, self._state.post(Address(self._topics.errors), error_payload(error)))

    def _committed(self, commit: asyncio.Future[Any]) -> None:
        # Not left to _acknowledge: the connection may end before, and what is kept is kept all the same.
        if not commit.cancelled() and commit.exception() is None:
            self._on_commit()

    async def _acknowledge(self, link: Link) -> None:
        while True:
            written = await self._written.get()
            outcome = await written.commit
            if written.asked is not None and outcome is not Accepted.NEW:
                await self._known(written.asked, outcome)
            if written.mid:
                link.ack(written.mid)

    async def _known(self, asked: Incoming, outcome: Accepted) -> None:
        """One whose id was there already."""
        if outcome is not Accepted.CONFLICT:
            return self._count("repeat_received")
        self._count("conflict")
        error = Conflict(f"the id {asked.id!r} was given to another body", param="id")
        topic = asked.address.topic
        if topic == self._topics.result(asked.sender, asked.id):
            topic = self._topics.errors  # the first one's receiver waits there
        address = Address(topic, asked.address.correlation)
        await self._state.post(address, error_payload(error, asked.id, asked.sender))
        self._on_commit()

    def _count(self, kind: str) -> None:
        self._node.telemetry.mqtt_messages.labels(kind=kind).inc()


def _check_model(asked: Incoming, serving: Serving) -> None:
    """Raises ModelNotFound and BadRequest. What may be of a Model that is still to come is let pass."""
    found = serving.find(asked.model)
    if found is None:
        if serving.whole and serving.find(""):
            raise ModelNotFound(f"the model {asked.model!r} is not on this node", param="model")
    elif asked.tensors and not found.makes_tensors:
        raise BadRequest(f"{found.name} generates text: publish to prompts", param="model")
    elif found.makes_tensors and not asked.tensors:
        raise BadRequest(f"{found.name} takes tensors: publish to infer/{found.name}", param="model")
