"""A node with a mistake in it: one message, or one prompt, suffers; the MQTT door goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config import Settings
from agent.doors.mqtt.link import Message
from agent.doors.mqtt.receiver import Receiver
from agent.doors.mqtt.runs import Out, Runs
from agent.doors.mqtt.topics import Topics
from agent.telemetry import Telemetry
from cloud_sync.state import Address, State

TOPICS = Topics("n")
PROMPT = b'{"id": "a", "prompt": "x"}'


class BrokenServing:
    whole = True

    def find(self, name: str) -> object:
        return self

    def submit_all(self, requests: list[Any]) -> list[Any]:
        raise ZeroDivisionError


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    state = State(tmp_path / "state.db", keep_s=lambda: 100)
    yield state
    await state.close()


async def told(state: State) -> tuple[str, dict[str, Any]]:
    while not (parcels := await state.due(0, 10)):  # noqa: ASYNC110 - the outbox, too, is asked
        await asyncio.sleep(0.01)
    [parcel] = parcels
    return parcel.topic, json.loads(parcel.payload)["error"]


async def test_a_message_that_cannot_be_judged_is_refused_and_acked(state: State) -> None:
    node: Any = SimpleNamespace(settings=Settings(), telemetry=Telemetry(), serving=BrokenServing())
    acked = asyncio.get_running_loop().create_future()
    link: Any = SimpleNamespace(ack=acked.set_result)
    receiver = Receiver(node, state, TOPICS, lambda: None)
    receiver.put(Message(topic=TOPICS.inputs[0], payload=PROMPT, mid=7))
    running = asyncio.create_task(receiver.run(link))
    assert await acked == 7
    topic, error = await told(state)
    assert (topic, error["code"]) == (TOPICS.errors, "internal_error")
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_what_may_be_of_a_model_still_to_come_is_kept(state: State) -> None:
    """At a start the default may be there before the rest of the shelf has been looked through."""
    infer = b'{"id": "a", "inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}'
    looking = SimpleNamespace(whole=False, find=lambda name: None if name else SimpleNamespace(tensors=None))
    node: Any = SimpleNamespace(settings=Settings(), telemetry=Telemetry(), serving=looking)
    receiver = Receiver(node, state, TOPICS, lambda: None)
    acked: asyncio.Queue[int] = asyncio.Queue()
    link: Any = SimpleNamespace(ack=acked.put_nowait)
    running = asyncio.create_task(receiver.run(link))
    receiver.put(Message(topic="autoglm/v1/n/infer/late", payload=infer, mid=1))
    assert await acked.get() == 1
    assert [prompt.model for prompt in await state.claim(9)] == ["late"]
    looking.whole = True
    receiver.put(Message(topic="autoglm/v1/n/infer/late/ann", payload=infer, mid=2))
    assert await acked.get() == 2
    assert (await told(state))[1]["code"] == "model_not_found"
    running.cancel()
    await asyncio.wait([running])


async def test_a_prompt_that_cannot_be_started_gets_an_error(state: State) -> None:
    await state.accept("", "a", PROMPT, Address("results/a"))
    serving: Any = BrokenServing()
    runs = Runs(Settings(), serving, Telemetry(), state, TOPICS, Out(lambda *_: None, lambda: None))
    running = asyncio.create_task(runs.run())
    topic, error = await told(state)
    assert (topic, error["code"]) == ("results/a", "internal_error")
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
