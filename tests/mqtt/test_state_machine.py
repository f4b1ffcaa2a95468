"""The database against a model of it, with crashes: what a future promised is there afterwards."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloud_sync.state import Accepted, Address, State

KEEP_S = 100.0
senders, ids = st.sampled_from(["", "ann"]), st.sampled_from(["a", "b", "c"])
bodies = st.sampled_from([b"one", b"two"])
models = st.sampled_from([None, "m"])  # None: it is a prompt
addresses = st.builds(Address, topic=st.sampled_from(["t", "u"]), acks=st.booleans())


@dataclass
class Row:
    """What the model knows of a prompt."""

    asked_for: tuple[bytes, str | None]  # body, model
    seq: int | None = None  # known once claimed
    state: str = "waiting"
    result: bytes | None = None
    length: int | None = None  # of the result's JSON
    asked: dict[str, bool] = field(default_factory=dict)  # topic -> acks, while it is not done
    owed: dict[str, bool] = field(default_factory=dict)  # topic -> acks, once it is
    finished_at: float = 0.0
    owed_until: dict[str, float] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.crashes = 0
        self.clock = 0.0
        self.results = 0
        self.rows: dict[tuple[str, str], Row] = {}
        self.order: list[tuple[str, str]] = []  # of arrival
        self.state = self.opened()

    def opened(self) -> State:
        return State(
            Path(self.folder, str(self.crashes), "state.db"), keep_s=lambda: KEEP_S, clock=lambda: self.clock
        )

    def do(self, name: str, *values: Any, **named: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.state, name)(*values, **named)

        return self.loop.run_until_complete(call())

    @rule(sender=senders, id=ids, body=bodies, model=models, address=addresses)
    def accept(self, sender: str, id: str, body: bytes, model: str | None, address: Address) -> None:
        outcome = self.do("accept", sender, id, body, address, model=model)
        row = self.rows.get((sender, id))
        if row is None:
            assert outcome is Accepted.NEW
            self.rows[sender, id] = Row((body, model), asked={address.topic: address.acks})
            self.order.append((sender, id))
        elif row.asked_for != (body, model):
            assert outcome is Accepted.CONFLICT
        elif row.state == "done":
            assert outcome is Accepted.DONE
            row.owed[address.topic] = address.acks
            row.owed_until[address.topic] = self.clock + KEEP_S
        else:
            assert outcome is Accepted.RUNNING
            row.asked[address.topic] = address.acks

    @rule(limit=st.integers(1, 3), held=st.sets(senders), prompts=st.booleans(), tensors=st.booleans())
    def claim(self, limit: int, held: set[str], prompts: bool, tensors: bool) -> None:
        rows = [(key, self.rows[key]) for key in self.order if key[0] not in held]
        rows = [(key, row) for key, row in rows if (tensors if row.asked_for[1] else prompts)]
        waiting = [key for key, row in rows if row.state == "waiting"]
        busy = Counter(key[0] for key, row in self.rows.items() if row.state == "running")
        turns: dict[tuple[str, str], int] = {}
        for key in waiting:
            turns[key] = busy[key[0]]
            busy[key[0]] += 1
        claimed = self.do("claim", limit, held, prompts=prompts, tensors=tensors)
        in_turn = sorted(waiting, key=lambda key: turns[key])  # stable: then in the order of arrival
        assert [(prompt.sender, prompt.id) for prompt in claimed] == in_turn[:limit]
        for prompt in claimed:
            row = self.rows[prompt.sender, prompt.id]
            assert (prompt.body, prompt.model) == row.asked_for
            row.state, row.seq = "running", prompt.seq

    def running(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state == "running"]

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.running()))
        self.results += 1
        result = str(self.results).encode()  # each its own, so that rows can be told apart
        row.length = data.draw(st.sampled_from([None, 1]))
        assert self.do("finish", row.seq, result, row.length)
        row.state, row.result, row.finished_at = "done", result, self.clock
        row.owed, row.asked = row.asked, {}
        row.owed_until = dict.fromkeys(row.owed, self.clock + KEEP_S)

    @precondition(lambda self: any(row.state == "done" for row in self.rows.values()))
    @rule(data=st.data())
    def a_second_result_is_refused(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from([row for row in self.rows.values() if row.state == "done"]))
        assert not self.do("finish", row.seq, b"another")

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.running()))
        self.do("release", [row.seq], begun=data.draw(st.booleans()))
        row.state = "waiting"

    @rule(data=st.data())
    def the_broker_takes_one(self, data: st.DataObject) -> None:
        parcels = self.do("due", 0, 100)
        if parcels:
            parcel = data.draw(st.sampled_from(parcels))
            self.do("delivered", parcel.seq)
            [row] = [row for row in self.rows.values() if row.result == parcel.payload]
            assert row.owed[parcel.topic] == parcel.acks
            if not parcel.acks:
                del row.owed[parcel.topic]

    @rule(sender=senders, id=ids)
    def the_receiver_acks(self, sender: str, id: str) -> None:
        gone = self.do("acknowledged", sender, [id])
        row = self.rows.get((sender, id))
        assert gone == (len(row.owed) if row else 0)
        if row:
            row.owed.clear()

    @rule(seconds=st.sampled_from([1.0, 60.0, 150.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds
        for row in self.rows.values():
            for topic in [topic for topic in row.owed if row.owed_until[topic] <= self.clock]:
                del row.owed[topic]
        while (gone := self.do("purge")).results + gone.undelivered:
            pass
        for key, row in list(self.rows.items()):
            if row.state == "done" and row.finished_at + KEEP_S <= self.clock and not row.owed:
                del self.rows[key]
                self.order.remove(key)

    @rule()
    def crash(self) -> None:
        """The files as they are at this moment are what the next agent finds."""
        old = Path(self.folder, str(self.crashes))
        self.crashes += 1
        shutil.copytree(old, Path(self.folder, str(self.crashes)), ignore=shutil.ignore_patterns("*-shm"))
        self.loop.run_until_complete(self.state.close())
        now = self.clock
        self.state = self.opened()
        self.shift(now)
        stopped = self.running()
        assert self.do("resume") == len(stopped)
        for row in stopped:
            row.state = "waiting"

    def shift(self, now: float) -> None:
        """Node time may be a little behind after a crash: let the clock make up for it."""
        behind = now - self.state.now()
        assert behind >= 0
        self.clock += behind

    def owed(self) -> list[tuple[str, bytes, int | None]]:
        rows = self.rows.values()
        return [(topic, row.result, row.length) for row in rows if row.result for topic in row.owed]

    @invariant()
    def the_outbox_is_what_is_owed(self) -> None:
        if hasattr(self, "state"):
            due = self.do("due", 0, 100)
            found = [(parcel.topic, parcel.payload, parcel.header_length) for parcel in due]
            assert sorted(found, key=str) == sorted(self.owed(), key=str)

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.loop.run_until_complete(self.state.close())
            self.loop.close()
            shutil.rmtree(self.folder)


TestState = Machine.TestCase
TestState.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
