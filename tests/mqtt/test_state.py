"""The node's database: what it promises about prompts, results and the outbox."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloud_sync.rows import MAX_LIVES, MAX_RUNS
from cloud_sync.state import Accepted, Address, Known, State, StateError

HERE = Address("results/a")


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    state = State(tmp_path / "state.db", keep_s=lambda: 100)
    yield state
    await state.close()


async def test_a_prompt_is_accepted_once(state: State) -> None:
    assert await state.accept("", "a", b"body", HERE) is Accepted.NEW
    assert await state.accept("", "a", b"body", HERE) is Accepted.RUNNING
    assert len(await state.claim(10)) == 1
    assert await state.claim(10) == []


async def test_a_repeat_gets_the_bytes_of_the_first_result(state: State) -> None:
    await state.accept("", "a", b"body", HERE)
    [prompt] = await state.claim(1)
    assert await state.finish(prompt.seq, b"first")
    assert not await state.finish(prompt.seq, b"second")
    [parcel] = await state.due(0, 10)
    await state.delivered(parcel.seq)
    assert await state.accept("", "a", b"body", Address("elsewhere", b"c")) is Accepted.DONE
    [again] = await state.due(parcel.seq, 10)
    assert (again.topic, again.correlation, again.payload) == ("elsewhere", b"c", b"first")


async def test_another_body_under_the_same_id_changes_nothing(state: State) -> None:
    await state.accept("", "a", b"body", HERE)
    assert await state.accept("", "a", b"other", Address("elsewhere")) is Accepted.CONFLICT
    [prompt] = await state.claim(10)
    await state.finish(prompt.seq, b"result")
    assert await state.accept("", "a", b"other", Address("elsewhere")) is Accepted.CONFLICT
    assert [parcel.topic for parcel in await state.due(0, 10)] == ["results/a"]


async def test_ids_of_different_senders_do_not_meet(state: State) -> None:
    assert await state.accept("ann", "a", b"1", HERE) is Accepted.NEW
    assert await state.accept("bob", "a", b"2", HERE) is Accepted.NEW
    assert [prompt.sender for prompt in await state.claim(10)] == ["ann", "bob"]


async def test_all_who_asked_while_it_ran_get_the_result(state: State) -> None:
    await state.accept("", "a", b"body", Address("one"))
    await state.accept("", "a", b"body", Address("two", b"2"))
    await state.accept("", "a", b"body", Address("one"))
    [prompt] = await state.claim(1)
    await state.finish(prompt.seq, b"result")
    assert sorted(parcel.topic for parcel in await state.due(0, 10)) == ["one", "two"]


async def test_prompts_are_claimed_in_the_order_of_arrival_but_for_held_senders(state: State) -> None:
    for index in range(6):
        await state.accept("ann" if index % 2 else "bob", f"p{index}", b"body", HERE)
    assert [prompt.id for prompt in await state.claim(2, held=["bob"])] == ["p1", "p3"]
    assert [prompt.id for prompt in await state.claim(9)] == ["p0", "p2", "p4", "p5"]


async def test_a_claim_holds_no_more_bytes_than_it_may(state: State) -> None:
    for id in ("a", "b", "c"):
        await state.accept("", id, b"x" * 100, HERE)
    assert [prompt.id for prompt in await state.claim(9, most_bytes=250)] == ["a", "b"]
    assert await state.claim(9, most_bytes=50) == []


async def test_nobody_else_can_read_the_prompts(state: State, tmp_path: Path) -> None:
    await state.accept("", "a", b"secret", HERE)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        mode = await asyncio.to_thread((tmp_path / name).stat)
        assert stat.S_IMODE(mode.st_mode) == 0o600


async def test_a_released_prompt_keeps_its_place_and_was_no_attempt(state: State) -> None:
    await state.accept("", "first", b"body", HERE)
    await state.accept("", "second", b"body", HERE)
    [prompt] = await state.claim(1)
    await state.release([prompt.seq], begun=False)
    again = await state.claim(2)
    assert [(one.id, one.runs, one.attempts) for one in again] == [("first", 1, 1), ("second", 1, 1)]


async def test_an_attempts_number_is_never_used_twice(state: State) -> None:
    """A receiver of tokens knows by it what is void."""
    await state.accept("", "a", b"body", HERE)
    [prompt] = await state.claim(1)
    await state.release([prompt.seq], begun=True)  # in good order: no run, but tokens may be out
    [prompt] = await state.claim(1)
    assert (prompt.runs, prompt.attempts) == (1, 2)
    assert await state.began_again(prompt.seq) == 0  # the Worker was swapped: no death
    await state.resume()  # the agent was killed
    [prompt] = await state.claim(1)
    assert (prompt.runs, prompt.attempts) == (2, 4)


async def test_senders_take_turns(state: State) -> None:
    for index in range(8):
        await state.accept("many", f"m{index}", b"body", HERE)
    assert [prompt.id for prompt in await state.claim(2)] == ["m0", "m1"]
    for id in ("ann", "bob"):
        await state.accept(id, f"{id}1", b"body", HERE)
        await state.accept(id, f"{id}2", b"body", HERE)
    # Behind m2 to m7, but with none running.
    assert [prompt.id for prompt in await state.claim(1)] == ["ann1"]
    rest = ["bob1", "ann2", "bob2", "m2", "m3", "m4", "m5", "m6", "m7"]
    assert [prompt.id for prompt in await state.claim(9)] == rest


async def test_a_body_over_the_bound_runs_alone(state: State) -> None:
    await state.accept("", "large", b"x" * 100, HERE)
    await state.accept("", "small", b"x", HERE)
    [prompt] = await state.claim(9, most_bytes=50)
    assert prompt.id == "large"
    await state.finish(prompt.seq, b"result")
    assert [prompt.id for prompt in await state.claim(9, most_bytes=50)] == ["small"]


async def test_a_prompt_that_was_begun_too_often_is_spent(state: State) -> None:
    await state.accept("", "a", b"body", HERE)
    for runs in range(1, MAX_RUNS + 1):
        [prompt] = await state.claim(1)
        assert (prompt.runs, prompt.spent) == (runs, False)
        assert await state.resume() == 1
    [prompt] = await state.claim(1)
    assert prompt.spent


async def test_a_prompt_that_cost_three_workers_is_spent(state: State) -> None:
    await state.accept("", "a", b"body", HERE)
    [prompt] = await state.claim(1)
    assert [await state.began_again(prompt.seq, deaths=1) for _ in range(MAX_LIVES)] == [1, 2, 3]
    await state.release([prompt.seq], begun=True)
    [prompt] = await state.claim(1)
    assert prompt.spent


async def test_a_row_goes_at_the_brokers_ack_unless_the_receiver_acks_itself(state: State) -> None:
    await state.accept("", "plain", b"body", Address("plain"))
    await state.accept("ann", "careful", b"body", Address("careful", acks=True))
    for prompt in await state.claim(2):
        await state.finish(prompt.seq, b"result")
    for parcel in await state.due(0, 10):
        await state.delivered(parcel.seq)
    assert [parcel.topic for parcel in await state.due(0, 10)] == ["careful"]
    assert await state.acknowledged("bob", ["careful"]) == 0
    assert await state.acknowledged("ann", ["careful", "unknown"]) == 1
    assert await state.due(0, 10) == []


async def test_a_refusal_does_not_go_where_another_prompts_receiver_waits(state: State) -> None:
    await state.accept("", "a", b"body", HERE)
    await state.post(HERE, b"refused", Known("", "a", "errors"))
    await state.post(HERE, b"refused", Known("", "unknown", "errors"))
    assert [parcel.topic for parcel in await state.due(0, 10)] == ["errors", "results/a"]


async def test_results_and_undelivered_messages_go_when_their_time_is_over(tmp_path: Path) -> None:
    time = 0.0
    state = State(tmp_path / "state.db", keep_s=lambda: 100, clock=lambda: time)
    await state.accept("", "a", b"body", Address("soon", expires_in=10))
    [prompt] = await state.claim(1)
    await state.finish(prompt.seq, b"x" * 1_000_000)
    size = (tmp_path / "state.db").stat().st_size
    time = 11
    assert await state.due(0, 10) == []
    purged = await state.purge()
    assert (purged.undelivered, purged.results) == (1, 0)
    assert await state.accept("", "a", b"body", Address("later")) is Accepted.DONE
    time = 200
    while (purged := await state.purge()).results + purged.undelivered:
        pass
    assert await state.accept("", "a", b"body", HERE) is Accepted.NEW
    await state.close()
    assert (tmp_path / "state.db").stat().st_size < max(size, 1_000_000) / 2


async def test_a_prompt_that_is_not_finished_is_never_purged(tmp_path: Path) -> None:
    time = 0.0
    state = State(tmp_path / "state.db", keep_s=lambda: 1, clock=lambda: time)
    await state.accept("", "a", b"body", HERE)
    time = 1e9
    await state.purge()
    assert [prompt.id for prompt in await state.claim(1)] == ["a"]
    await state.close()


async def test_node_time_goes_on_where_the_last_agent_left_it(tmp_path: Path) -> None:
    clock = 5.0
    state = State(tmp_path / "state.db", keep_s=lambda: 100, clock=lambda: clock)
    clock = 65.0
    await state.accept("", "a", b"body", HERE)
    await state.close()
    clock = 1.0  # another boot
    state = State(tmp_path / "state.db", keep_s=lambda: 100, clock=lambda: clock)
    assert state.now() == 60.0
    await state.close()


async def test_the_file_can_shrink_and_waits_for_the_disk(state: State, tmp_path: Path) -> None:
    def pragma(name: str) -> object:
        db = sqlite3.connect(tmp_path / "state.db")
        try:
            return db.execute(f"PRAGMA {name}").fetchone()[0]
        finally:
            db.close()

    assert (pragma("auto_vacuum"), pragma("journal_mode")) == (2, "wal")


async def test_what_arrives_together_shares_a_commit(state: State) -> None:
    outcomes = await asyncio.gather(*(state.accept("", f"p{n}", b"body", HERE) for n in range(2000)))
    assert set(outcomes) == {Accepted.NEW}
    assert [prompt.id for prompt in await state.claim(2000)] == [f"p{n}" for n in range(2000)]


async def test_a_damaged_database_is_set_aside_and_told_of(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = State(path, keep_s=lambda: 100)
    await asyncio.gather(*(state.accept("", f"p{n}", b"x" * 3000, HERE) for n in range(50)))
    await state.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 20] = os.urandom(4096 * 17)
    path.write_bytes(damaged)
    state = State(path, keep_s=lambda: 100)
    assert state.set_aside is not None
    assert state.set_aside.read_bytes() == damaged
    assert await state.accept("", "p0", b"new", HERE) is Accepted.NEW
    await state.close()


async def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("not a database, but long enough to be looked at as one" * 100)
    state = State(path, keep_s=lambda: 100)
    assert state.set_aside is not None
    await state.close()
    state = State(path, keep_s=lambda: 100)
    assert state.set_aside is None
    await state.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MiB of disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


async def test_a_full_disk_keeps_nothing_and_room_brings_it_back(small_disk: Path) -> None:
    state = State(small_disk / "state.db", keep_s=lambda: 100)
    await state.accept("", "kept", b"body", HERE)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(StateError, match="FULL"):
        await state.accept("", "too-large", b"x" * 500_000, HERE)
    ballast.unlink()
    assert await state.accept("", "too-large", b"x" * 300_000, HERE) is Accepted.NEW
    assert [prompt.id for prompt in await state.claim(9)] == ["kept", "too-large"]
    await state.close()
