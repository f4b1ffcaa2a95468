"""The Worker of an Engine of tensors: one thread that hears, and runners that each take the next batch.

onnxruntime lets other threads run while it computes, and two runs at once beat one run of two threads on
small models. A batch that fails is run again one by one, so that nobody pays for a neighbour.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.batcher import Batcher, Item
from agent.engines import tensors
from agent.engines.engine import EngineError, TensorEngine
from agent.frames import (
    MAX_FRAME,
    MOST_TOGETHER,
    Answered,
    Cancel,
    Infer,
    Ran,
    Reader,
    Stop,
    TensorsReady,
    ToWorker,
)
from agent.link import AgentGone, send

IDLE_BEAT = 0.5  # seconds
MOST_ANSWER = MAX_FRAME - (1 << 20)
ARRANGED = ("cap", "runners", "opt_batch_size", "delay_ms", "rows_per_s")  # settings that `/status` shows


@dataclass(slots=True)
class _Runner:
    since: float | None = None  # when its run began; None: it waits


class TensorWorker:
    def __init__(
        self, engine: TensorEngine, link: socket.socket, batcher: Batcher, runners: int, deadline_s: float
    ) -> None:
        self._engine = engine
        self._link = link
        self._incoming = select.poll()
        self._incoming.register(link, select.POLLIN)
        self._batcher = batcher
        self._deadline_s = deadline_s
        self._reader = Reader(ToWorker)
        self._asked: dict[str, Infer] = {}
        self._news = threading.Condition()  # guards the batcher and what was asked
        self._sending = threading.Lock()
        self._runners = [_Runner() for _ in range(runners)]
        self._batches = engine.info.batches
        self._beaten = 0.0  # when the agent last heard from this thread
        self._stopping = False

    def run(self) -> None:
        """Until the agent says stop. AgentGone; SystemExit where a run hangs."""
        threads = [threading.Thread(target=self._serve, args=(one,), daemon=True) for one in self._runners]
        for thread in threads:
            thread.start()
        while not self._stopping:
            self._receive()
            self._look_after()
        with self._news:
            self._news.notify_all()
        for thread in threads:
            thread.join()

    # The thread that hears.

    def _receive(self) -> None:
        if not self._incoming.poll(1000 * IDLE_BEAT):
            return
        data = self._link.recv(1 << 20)
        if not data:
            raise AgentGone
        frames = list(self._reader.feed(data))
        with self._news:
            for frame in frames:
                self._handle(frame)
            self._news.notify(len(frames))

    def _handle(self, frame: ToWorker) -> None:
        match frame:
            case Infer():
                self._asked[frame.id] = frame
                self._batcher.add(self._item(frame))
            case Cancel():
                if self._batcher.remove(frame.id):
                    del self._asked[frame.id]
            case Stop():
                self._stopping = True

    def _item(self, frame: Infer) -> Item:
        rows = self._rows(frame)
        together = self._batches and all(one.shape[:1] == (rows,) for one in frame.inputs)
        kind = (frame.outputs, *((one.name, one.datatype, one.shape[1:]) for one in frame.inputs))
        return Item(
            id=frame.id,
            kind=kind if together else frame.id,
            rows=max(rows, 1),
            priority=frame.priority,
            arrived=time.monotonic(),
            deadline=frame.deadline,
        )

    def _rows(self, frame: Infer) -> int:
        return frame.inputs[0].shape[0] if self._batches and frame.inputs[0].shape else 1

    def _look_after(self) -> None:
        now = time.monotonic()
        if any(one.since is not None and now - one.since > self._deadline_s for one in self._runners):
            print(f"a run took longer than {self._deadline_s:g} s", file=sys.stderr)
            raise SystemExit(4)
        with self._news:
            late = self._batcher.late(now)
            for item in late:
                del self._asked[item.id]
            waiting = len(self._batcher)
        if late or now - self._beaten >= IDLE_BEAT:
            self._beaten = now
            text = "the deadline has passed"
            self._send(Ran([_refused(one.id, "deadline_exceeded", text) for one in late], waiting=waiting))

    # The runners.

    def _serve(self, me: _Runner) -> None:
        with contextlib.suppress(AgentGone):  # the other thread finds out
            while (batch := self._next(me)) is not None:
                begun = time.monotonic()
                answered = self._answer(batch)
                now = time.monotonic()
                me.since = None
                rows = sum(map(self._rows, batch))
                for part in in_frames(answered):
                    self._send(Ran(part, rows, now - begun, len(self._batcher)))
                    rows = 0  # told once

    def _next(self, me: _Runner) -> list[Infer] | None:
        with self._news:
            while not self._stopping:
                now = time.monotonic()
                if items := self._batcher.take(now):
                    me.since = now
                    return [self._asked.pop(item.id) for item in items]
                due = self._batcher.due()
                self._news.wait(None if due is None else max(0.0, due - now))
        return None

    def _answer(self, batch: Sequence[Infer]) -> list[Answered]:
        try:
            return self._run(batch)
        except EngineError as error:
            if len(batch) == 1:
                return [_refused(batch[0].id, "invalid_request", str(error))]
        except Exception as error:  # noqa: BLE001 - the runner has others to serve
            if len(batch) == 1:
                return [_refused(batch[0].id, "internal_error", f"{type(error).__name__}: {error}"[:500])]
        return [answer for one in batch for answer in self._answer([one])]

    def _run(self, batch: Sequence[Infer]) -> list[Answered]:
        names = batch[0].outputs or tuple(spec.name for spec in self._engine.info.outputs)
        parts = [[tensors.to_array(tensor) for tensor in one.inputs] for one in batch]
        inputs = {
            tensor.name: tensors.together([part[at] for part in parts])
            for at, tensor in enumerate(batch[0].inputs)
        }
        found = self._engine.run(inputs, names)
        if len(batch) == 1:
            return [Answered(batch[0].id, tuple(map(tensors.to_tensor, names, found)))]
        answered, start = [], 0
        total = sum(map(self._rows, batch))
        if any(array.shape[:1] != (total,) for array in found):
            raise EngineError("an output has another first axis than the inputs")
        for one in batch:
            end = start + self._rows(one)
            mine = (
                tensors.to_tensor(*pair) for pair in zip(names, [a[start:end] for a in found], strict=True)
            )
            answered.append(Answered(one.id, tuple(mine)))
            start = end
        return answered

    def _send(self, frame: Ran) -> None:
        with self._sending:
            send(self._link, frame)


def _refused(id: str, code: str, message: str) -> Answered:
    return Answered(id, None, code, message)


def in_frames(answered: Sequence[Answered]) -> Iterator[list[Answered]]:
    """As many together as one frame should have; what no frame can carry becomes an error."""
    part: list[Answered] = []
    size = 0
    for one in answered:
        its = sum(len(tensor.data) for tensor in one.outputs or ())
        if its > MOST_ANSWER:
            says = f"the answer has {its} bytes; at most {MOST_ANSWER} can be given: ask for fewer rows"
            one, its = _refused(one.id, "invalid_request", says), 0
        if part and size + its > MOST_TOGETHER:
            yield part
            part, size = [], 0
        part.append(one)
        size += its
    yield part


def serve_tensors(engine: TensorEngine, link: socket.socket, settings: dict[str, Any]) -> None:
    """Say how it will be run, then do. Raises as `TensorWorker.run` does."""
    details = {name: settings.get(name) for name in ARRANGED}
    send(link, TensorsReady(replace(engine.info, details={**engine.info.details, **details})))
    batcher = Batcher(settings["cap"], settings["opt_batch_size"], settings["delay_ms"] / 1000)
    TensorWorker(engine, link, batcher, settings["runners"], settings["run_deadline_s"]).run()
