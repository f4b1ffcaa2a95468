"""The outbox against a model of it, with crashes and a link that loses answers: nothing is lost uncounted."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloud_sync.messages import Row, Stream, Telemetry
from cloud_sync.telemetry.outbox import NAME, Outbox
from cloud_sync.telemetry.rows import GAP, STREAMS, Entry, Worth
from tests.telemetry.controller import Kept

ROOMY, TIGHT = 50 << 20, 128 << 10
streams, sizes = st.sampled_from(STREAMS), st.sampled_from([10, 8000])
worths, keys = st.sampled_from([Worth.LEAST, Worth.MORE]), st.sampled_from([None, None, "a", "b"])


class Machine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.crashes, self.clock, self.quota = 0, 1_800_000_000.0, TIGHT
        self.given: dict[Stream, int] = dict.fromkeys(STREAMS, 0)  # rows and repeats that were written
        self.kept = Kept()
        self.outbox = self.opened()

    def opened(self) -> Outbox:
        return Outbox(Path(self.folder, str(self.crashes), NAME), lambda: self.quota)

    def do(self, name: str, *values: Any, **named: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.outbox, name)(*values, **named)

        return self.loop.run_until_complete(call())

    @rule(stream=streams, size=sizes, worth=worths, key=keys, count=st.sampled_from([1, 3, 20]))
    def append(self, stream: Stream, size: int, worth: Worth, key: str | None, count: int) -> None:
        entries = []
        for _ in range(count):
            self.given[stream] += 1
            self.clock += 600
            if stream == "metrics":
                series = {"n" + "x" * size: [1, self.given[stream], 1, 1, 1]}
                body: dict[str, Any] = {"period_s": 60, "series": series}
                entries.append(Entry(stream, self.clock, "minute", body))
            else:
                body = {"n": self.given[stream], "text": "x" * size}
                entries.append(Entry(stream, self.clock, "news", body, worth, key))
        self.do("append", entries)

    @rule(seconds=st.sampled_from([-86400.0, 1800.0, 7200.0]))
    def wait(self, seconds: float) -> None:
        self.clock += seconds

    @rule(quota=st.sampled_from([ROOMY, TIGHT]))
    def allow(self, quota: int) -> None:
        self.quota = quota

    @rule(most=st.sampled_from([1, 20_000, 1 << 20]), again=st.booleans(), arrives=st.booleans())
    def send(self, most: int, again: bool, arrives: bool) -> None:
        """And whether its answer comes back."""
        batch: Telemetry = self.do("offer", most, again=again)
        if batch.streams:
            answer = self.kept.keep(batch)
            if arrives:
                self.do("received", answer.received)

    @rule()
    def lose_a_batch(self) -> None:
        self.do("offer", 20_000)

    @rule()
    def refuse(self) -> None:
        batch: Telemetry = self.do("offer", 1)
        if batch.streams:
            name, rows = next(iter(batch.streams.items()))
            self.do("refuse", name, rows[-1].seq)

    @rule()
    def crash(self) -> None:
        """As it is on the disk at this moment."""
        before = Path(self.folder, str(self.crashes))
        self.crashes += 1
        shutil.copytree(before, Path(self.folder, str(self.crashes)))
        self.do("close")
        shutil.rmtree(before)
        self.outbox = self.opened()

    @invariant()
    def what_waits_has_no_hole(self) -> None:
        db = sqlite3.connect(Path(self.folder, str(self.crashes), NAME))
        [(id,)] = db.execute("SELECT id FROM database").fetchall()
        given = dict(db.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        for stream in STREAMS:
            rows = db.execute(f"SELECT coalesce(first, seq), seq FROM {stream} ORDER BY seq").fetchall()
            for (_, before), (first, _) in pairwise(rows):
                assert first == before + 1
            if rows:
                assert rows[-1][1] == given[stream]
                assert rows[0][0] <= self.kept.mark(id, stream) + 1 or not self.kept.rows
        db.close()

    def teardown(self) -> None:
        try:
            self.what_was_given_is_at_the_controller()
        finally:
            self.do("close")
            self.loop.close()
            shutil.rmtree(self.folder)

    def what_was_given_is_at_the_controller(self) -> None:
        """Every number once, in a row or in a gap; and where nothing was given up, all that was written."""
        last: Telemetry | None = None
        while (batch := self.do("offer", 1 << 20)).streams:
            self.do("received", self.kept.keep(batch).received)
            last = batch
        assert not any(self.outbox.backlog.rows.values())
        for stream in STREAMS:
            rows = self.kept.all(stream)
            if last and stream in last.streams:
                assert self.kept.mark(last.database, stream) == rows[-1].seq
            if any(row.kind == GAP for row in rows):
                assert self.outbox.backlog.given_up[stream] > 0
            else:
                assert sum(count_of(row) for row in rows) == self.given[stream]


def count_of(row: Row) -> int:
    if row.kind in ("minute", "hour"):
        return round(sum(series[0] for series in row.body["series"].values()))
    count: int = row.body.get("count", 1)
    return count


TestOutbox = Machine.TestCase
TestOutbox.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
