"""What waits goes to the controller, and from the disk only when the controller says that it has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import structlog.testing
import zstandard

from cloud_sync.messages import Received, Telemetry
from cloud_sync.telemetry.drain import Drain, packed
from cloud_sync.telemetry.outbox import NAME, Outbox
from cloud_sync.telemetry.rows import GAP, Entry
from tests.telemetry.controller import Kept, Way

FAST = 1e9  # bytes a second


@pytest.fixture
def way() -> Way:
    return Way(Kept())


@pytest_asyncio.fixture
async def outbox(open_outbox: Callable[..., Outbox]) -> Outbox:
    return open_outbox()


@pytest_asyncio.fixture
async def drain(outbox: Outbox, way: Way) -> AsyncIterator[Drain]:
    drain = Drain(lambda: FAST)
    drain.open(outbox)
    task = asyncio.create_task(drain.run(way, "ours"))
    await asyncio.sleep(0)
    yield drain
    task.cancel()


def events(*texts: str) -> list[Entry]:
    return [Entry("events", 1_800_000_000.0, "start", {"text": text}) for text in texts]


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not found():  # noqa: ASYNC110 - it looks at what has no event
            await asyncio.sleep(0.01)


def damage(folder: Path, stream: str, where: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / NAME)) as db, db:
        db.execute(f"UPDATE {stream} SET body = '?' || body WHERE {where}")


def waits(outbox: Outbox) -> int:
    return sum(outbox.backlog.rows.values())


def texts(kept: Kept) -> list[str]:
    return [row.body["text"] for row in kept.all("events") if row.kind != GAP]


async def test_what_waits_goes_when_the_controller_answers(outbox: Outbox, drain: Drain, way: Way) -> None:
    await outbox.append(events("a", "b"))
    drain.hurry()  # nobody is there
    await asyncio.sleep(0.05)
    assert not way.tries
    assert drain.backlog == {"events": 2}
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    assert texts(way.kept) == ["a", "b"]
    await outbox.append(events("c"))
    drain.hurry()  # it does not wait for the heartbeat
    await until(lambda: not waits(outbox))
    assert [row.seq for row in way.kept.all("events")] == [1, 2, 3]


async def test_it_is_deleted_on_the_answer_alone_and_sent_again_with_the_same_numbers(
    outbox: Outbox, drain: Drain, way: Way
) -> None:
    await outbox.append(events("a", "b"))
    way.answers_lost = 2
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    assert [[row.seq for row in one.streams["events"]] for one in way.tries] == [[1, 2]] * 3


def test_kill_9_between_send_and_answer_sends_the_same_again(folder: Path) -> None:
    """In a process of its own, which is killed while it waits for the answer."""
    program = """
import asyncio, sys
from pathlib import Path
from cloud_sync.telemetry.drain import Drain
from tests.telemetry.controller import Kept, Way
from tests.telemetry.test_drain import NAME, Outbox, events

class Deaf(Way):
    async def telemetry(self, batch):
        answer = await super().telemetry(batch)
        print(self.tries[-1].model_dump_json(), flush=True)
        await asyncio.sleep(600)

async def main():
    outbox = Outbox(Path(sys.argv[1]), lambda: 50 << 20)
    await outbox.append(events("a", "b"))
    drain = Drain(lambda: 1e9)
    drain.open(outbox)
    task = asyncio.create_task(drain.run(Deaf(Kept()), "ours"))
    await asyncio.sleep(0)
    drain.link(there=True)
    await task

asyncio.run(main())
"""
    node = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / NAME)], stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    sent = Telemetry.model_validate_json(node.stdout.readline())
    node.send_signal(signal.SIGKILL)
    node.wait(30)
    node.stdout.close()

    async def after() -> None:
        outbox = Outbox(folder / NAME, lambda: 50 << 20)
        await outbox.append(events("c"))
        again = await outbox.offer(1 << 20)
        assert again.database == sent.database
        assert again.streams["events"][:2] == sent.streams["events"]
        assert [row.seq for row in again.streams["events"]] == [1, 2, 3]
        await outbox.close()

    asyncio.run(after())


async def test_numbers_are_not_used_again_when_all_went(
    outbox: Outbox, drain: Drain, way: Way, open_outbox: Callable[..., Outbox]
) -> None:
    await outbox.append(events("a", "b"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    await outbox.close()
    outbox = open_outbox()
    await outbox.append(events("c"))
    batch = await outbox.offer(1 << 20)
    assert batch.database == way.tries[0].database
    assert [row.seq for row in batch.streams["events"]] == [3]


async def test_what_was_offered_is_not_changed_until_it_is_received(outbox: Outbox) -> None:
    def alarm(at: float) -> list[Entry]:
        return [Entry("events", at, "alarm", {"alarm": "x"}, key="alarm/x")]

    await outbox.append([*alarm(0), *alarm(10)])
    before = await outbox.offer(1 << 20)
    await outbox.append(alarm(20))
    after = (await outbox.offer(1 << 20)).streams["events"]
    assert after[:1] == before.streams["events"]
    assert [row.body.get("count") for row in after] == [2, None]


async def test_a_row_that_will_never_be_taken_costs_itself_alone(
    outbox: Outbox, drain: Drain, way: Way
) -> None:
    way.refuses = lambda batch: "invalid" if "poison" in str(batch.streams) else ""
    await outbox.append(events("a", "poison", "b"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    assert texts(way.kept) == ["a", "b"]
    [gap] = [row for row in way.kept.all("events") if row.kind == GAP]
    assert (gap.first, gap.seq) == (2, 2)
    assert outbox.backlog.given_up["events"] == 1


async def test_a_row_that_the_disk_damaged_costs_itself_alone(
    outbox: Outbox, drain: Drain, way: Way, folder: Path
) -> None:
    """SQLite finds nothing wrong with a text in which a bit has flipped."""
    await outbox.append(events("a", "damaged", "b"))
    damage(folder, "events", "seq = 2")
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    assert texts(way.kept) == ["a", "b"]
    [gap] = [row for row in way.kept.all("events") if row.kind == GAP]
    assert (gap.first, gap.seq) == (2, 2)


async def test_what_the_disk_damaged_stands_in_the_way_of_nothing_that_comes_later(
    outbox: Outbox, folder: Path, open_outbox: Callable[..., Outbox]
) -> None:
    """Neither as minutes that become an hour, nor as the event that the next one is counted with."""
    minute = {"period_s": 60, "series": {name: [1, 1, 1, 1, 1] for name in map(str, range(40_000))}}
    entries = [Entry("metrics", 1_800_000_000.0 + at, "minute", minute) for at in range(0, 10_800, 600)]
    flapping = Entry("events", 1_800_000_000.0, "worker_lost", {}, key="worker_lost")
    await outbox.append([*entries, flapping])
    damage(folder, "metrics", "seq = 2")
    damage(folder, "events", "seq = 1")
    await outbox.close()
    outbox = open_outbox(5 << 20)
    await outbox.append([flapping])
    assert outbox.backlog.rows["events"] == 2
    assert outbox.backlog.given_up["metrics"] > 0


async def test_telemetry_that_fails_takes_the_link_not_with_it(outbox: Outbox, way: Way) -> None:
    class Confused(Way):
        async def telemetry(self, batch: bytes) -> Received:
            self.tries.append(Telemetry.model_validate_json(zstandard.decompress(batch)))
            raise RuntimeError("nobody expected this")

    confused, drain = Confused(way.kept), Drain(lambda: FAST)
    drain.open(outbox)
    await outbox.append(events("a"))
    async with asyncio.TaskGroup() as link:
        running = link.create_task(drain.run(confused, "ours"))
        await asyncio.sleep(0)
        drain.link(there=True)
        await until(lambda: confused.tries)
        drain.link(there=True)  # at the next heartbeat
        await until(lambda: len(confused.tries) > 1)
        running.cancel()


async def test_a_batch_that_is_too_large_goes_in_pieces(outbox: Outbox, drain: Drain, way: Way) -> None:
    way.refuses = lambda batch: "too_large" if len(batch.streams["events"]) > 3 else ""
    await outbox.append(events(*map(str, range(12))))
    drain.link(there=True)
    await until(lambda: len(texts(way.kept)) > 2)
    assert texts(way.kept)[:3] == ["0", "1", "2"]


async def test_a_refusal_that_is_not_for_a_row_loses_nothing(outbox: Outbox, drain: Drain, way: Way) -> None:
    way.refuses = lambda batch: "revoked"
    await outbox.append(events("a"))
    with structlog.testing.capture_logs() as said:
        drain.link(there=True)
        await until(lambda: said)
    assert said[0]["event"] == "telemetry is refused"
    assert len(way.tries) == waits(outbox) == 1
    assert outbox.backlog.given_up["events"] == 0


async def test_a_controller_that_lost_what_it_had_is_told_what_is_gone(
    outbox: Outbox, drain: Drain, way: Way
) -> None:
    await outbox.append(events("a", "b"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    way.kept = Kept()
    await outbox.append(events("c"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    gap, row = way.kept.all("events")
    assert (gap.kind, gap.first, gap.seq) == (GAP, 1, 2)
    assert row.seq == 3


async def test_a_file_that_is_an_old_copy_of_itself_becomes_another(
    outbox: Outbox, drain: Drain, way: Way, folder: Path, open_outbox: Callable[..., Outbox]
) -> None:
    """Its numbers are used: what is new under them would be taken for a repeat."""
    await outbox.append(events("a"))
    copy = {one.name: one.read_bytes() for one in folder.iterdir()}  # noqa: ASYNC240
    await outbox.append(events("b", "c", "d"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    drain.close()
    await outbox.close()
    for name, data in copy.items():
        (folder / name).write_bytes(data)
    outbox = open_outbox()
    drain.open(outbox)
    await outbox.append(events("new"))
    for _ in range(2):
        drain.link(there=True)
        await until(lambda: not waits(outbox))
        await outbox.append(events("newer"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    assert len({one.database for one in way.tries}) == 2
    assert texts(way.kept)[-2:] == ["newer", "newer"]


async def test_a_copy_is_known_by_what_it_never_offered(outbox: Outbox) -> None:
    """However much it has written since."""
    await outbox.append(events(*map(str, range(10))))
    former = await outbox.offer(1)
    assert [row.seq for row in former.streams["events"]] == [1]
    await outbox.received({"events": 4})
    assert outbox.backlog.rows["events"] == 10
    assert (await outbox.offer(1)).database != former.database


async def test_a_file_that_is_opened_again_is_sent_from(
    outbox: Outbox, drain: Drain, way: Way, open_outbox: Callable[..., Outbox]
) -> None:
    """As after a disk that was full for a while."""
    await outbox.append(events("a"))
    await outbox.close()
    drain.link(there=True)
    await asyncio.sleep(0.05)
    drain.close()
    again = open_outbox()
    drain.open(again)
    await again.append(events("b"))
    drain.link(there=True)
    await until(lambda: not waits(again))
    assert texts(way.kept) == ["a", "b"]


async def test_what_was_written_for_one_fleet_is_not_told_to_another(outbox: Outbox, way: Way) -> None:
    await outbox.belong("theirs")
    await outbox.append(events("a secret"))
    former = (await outbox.offer(1000)).database
    drain = Drain(lambda: FAST)
    drain.open(outbox)
    task = asyncio.create_task(drain.run(way, "ours"))
    await asyncio.sleep(0)
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    await outbox.append(events("news"))
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    task.cancel()
    assert texts(way.kept) == ["news"]
    assert {one.database for one in way.tries} != {former}


async def test_the_link_is_never_used_more_than_is_set(outbox: Outbox, way: Way) -> None:
    rate, chance = 200_000, random.Random(3)
    await outbox.append(events(*(chance.randbytes(2000).hex() for _ in range(200))))
    drain = Drain(lambda: rate)
    drain.open(outbox)
    task = asyncio.create_task(drain.run(way, "ours"))
    await asyncio.sleep(0)
    began = time.monotonic()
    drain.link(there=True)
    await until(lambda: not waits(outbox))
    took = time.monotonic() - began
    task.cancel()
    assert len(way.tries) > 3
    last = len(packed(way.tries[-1]))  # goes as soon as those before it are through
    assert way.kept.bytes - last <= rate * took


async def test_a_file_that_is_damaged_is_set_aside_and_another_begins(
    outbox: Outbox, folder: Path, open_outbox: Callable[..., Outbox]
) -> None:
    await outbox.append(events("a"))
    former = (await outbox.offer(1000)).database
    await outbox.close()
    (folder / NAME).write_bytes(b"\0" * 100)
    outbox = open_outbox()
    assert outbox.set_aside is not None
    assert outbox.set_aside.exists()
    await outbox.append(events("b"))
    assert (await outbox.offer(1000)).database != former
