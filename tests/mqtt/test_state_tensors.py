"""The node's database: what it promises about tensors, and about its files from before there were any."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud_sync.state import Accepted, Address, State

HERE = Address("results/a")


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    state = State(tmp_path / "state.db", keep_s=lambda: 100)
    yield state
    await state.close()


async def test_the_same_bytes_for_another_model_or_cut_elsewhere_are_another_body(state: State) -> None:
    assert await state.accept("", "a", b"body", HERE, model="m", header_length=3) is Accepted.NEW
    assert await state.accept("", "a", b"body", HERE, model="m", header_length=3) is Accepted.RUNNING
    for model, length in (("n", 3), ("m", 2), ("m", None), (None, None)):
        known = await state.accept("", "a", b"body", HERE, model=model, header_length=length)
        assert known is Accepted.CONFLICT
    [prompt] = await state.claim(1)
    assert (prompt.model, prompt.header_length) == ("m", 3)


async def test_either_kind_can_be_claimed_alone(state: State) -> None:
    for id, model in (("p1", None), ("t1", "m"), ("p2", None), ("t2", "m")):
        await state.accept("", id, b"body", HERE, model=model)
    assert [prompt.id for prompt in await state.claim(1, tensors=False)] == ["p1"]
    assert [prompt.id for prompt in await state.claim(9, prompts=False)] == ["t1", "t2"]
    assert await state.claim(9, prompts=False) == []
    assert [prompt.id for prompt in await state.claim(9)] == ["p2"]


async def test_a_raw_results_length_goes_with_it(state: State) -> None:
    await state.accept("", "a", b"body", HERE, model="m")
    [prompt] = await state.claim(1)
    await state.finish(prompt.seq, b"{}raw", 2)
    assert not await state.finish(prompt.seq, b"{ }raw", 3)
    await state.post(HERE, b"an error")
    found = [(parcel.payload, parcel.header_length) for parcel in await state.due(0, 10)]
    assert found == [(b"{}raw", 2), (b"an error", None)]


async def test_a_database_from_before_there_were_tensors_is_gone_on_with(tmp_path: Path) -> None:
    """One that is done and waits for its receiver's ack, one that ran, one that waited, and an error."""
    old = sqlite3.connect(tmp_path / "state.db")
    old.executescript((Path(__file__).parent / "state_0002.sql").read_text())
    old.close()
    state = State(tmp_path / "state.db", keep_s=lambda: 1000, clock=lambda: 1.0)
    assert state.set_aside is None
    before = await state.due(0, 10)
    assert [(parcel.payload, parcel.acks) for parcel in before] == [
        (b"the result", True),
        (b"an error", False),
    ]
    assert await state.resume() == 1
    claimed = await state.claim(9)
    assert [(one.id, one.body, one.attempts, one.model) for one in claimed] == [
        ("running", b"body-running", 2, None),
        ("waiting", b"body-waiting", 1, None),
    ]
    for one in claimed:
        assert await state.finish(one.seq, b"result of " + one.body)
    after = await state.due(before[-1].seq, 10)
    assert [(parcel.topic, parcel.correlation, parcel.payload) for parcel in after] == [
        ("results/running", b"\x01", b"result of body-running"),
        ("my/topic", b"\x02", b"result of body-waiting"),
    ]
    again = Address("again")
    assert await state.accept("ann", "done", b"body-done", again) is Accepted.DONE
    assert (await state.due(after[-1].seq, 10))[0].payload == b"the result"
    assert await state.accept("ann", "done", b"another", again) is Accepted.CONFLICT
    assert await state.accept("ann", "new", b"body", again, model="m") is Accepted.NEW
    await state.close()
