"""The Worker of an Engine of tensors: threads that take turns to hear, and each run the batch that they took.

Who hears what can be run passes the ear on and runs it, so that no batch waits for another thread to wake.
While all of them run nobody need hear: what comes then is heard at once by the first that is free, and now
and then by the main thread, which looks after the others. onnxruntime lets other threads run while it
computes, and two runs at once beat one run of two threads on small models; a batch that is alone has the
second session, with all threads, where the trial found that it pays. A batch that fails is run again one by
one, so that nobody pays for a neighbour.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from agent import sharing
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
from agent.lent import Borrower
from agent.link import AgentGone, send
from agent.tensor_trial import of_lone

IDLE_BEAT = 0.5  # seconds
LOOK_S = 0.2  # how often the main thread looks whether nobody hears
LEAST_WAIT = 0.001  # between looks at what is due, seconds
ROOM = 256 * 1024  # bytes that are received at once: a socket has no more
MOST_ANSWER = MAX_FRAME - (1 << 20)
ARRANGED = ("cap", "runners", "lone_threads", "opt_batch_size", "delay_ms", "rows_per_s")
"""Settings that `/status` shows."""


class TensorWorker:
    """`lone`: runs a batch that has the Worker to itself; None: `engine` does. `lent`: None: nothing is."""

    def __init__(
        self,
        engine: TensorEngine,
        link: socket.socket,
        batcher: Batcher,
        runners: int,
        deadline_s: float,
        lone: TensorEngine | None = None,
        lent: Borrower | None = None,
    ) -> None:
        self._engine, self._lone = engine, lone or engine
        self._link = link
        self._incoming = select.poll()
        self._incoming.register(link, select.POLLIN)
        self._batcher = batcher
        self._deadline_s = deadline_s
        self._reader = Reader(ToWorker)
        self._room = memoryview(bytearray(ROOM))
        self._lent = lent
        self._read: list[int] = []  # parts of what is lent that are not needed, and not given back yet
        self._asked: dict[str, Infer] = {}
        self._runners = runners
        self._running: dict[int, float] = {}  # by thread, since when
        self._ear = threading.Lock()  # who has it hears
        self._guard = threading.Lock()  # of the batcher, what was asked, and what runs
        self._sending = threading.Lock()
        self._batches = engine.info.batches
        self._beaten = 0.0  # when the agent last heard from who hears
        self._over = threading.Event()
        self._error: BaseException | None = None  # that ends the Worker

    def run(self) -> None:
        """Until the agent says stop. AgentGone; SystemExit where a run hangs."""
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(self._runners)]
        for thread in threads:
            thread.start()
        while not self._over.wait(LOOK_S):
            self._listen()
            self._look_after()
        if self._error is not None:
            raise self._error
        for thread in threads:
            thread.join()

    def _listen(self) -> None:
        """Hear what came, unless somebody hears already."""
        if self._ear.acquire(blocking=False):
            try:
                self._hear()
            finally:
                self._ear.release()

    def _serve(self) -> None:
        try:
            while (taken := self._next()) is not None:
                self._work(*taken)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._error = self._error or error
            self._over.set()

    def _work(self, batch: list[Infer], engine: TensorEngine) -> None:
        begun = time.monotonic()
        answered = self._answer(batch, engine)
        seconds = time.monotonic() - begun
        with self._guard:
            del self._running[threading.get_ident()]
            self._drop(batch)
            read, self._read = self._read, []
        rows = sum(map(self._rows, batch))
        for part in in_frames(answered):
            self._send(Ran(part, rows, seconds, len(self._batcher), read=read))
            rows, read = 0, []  # told once

    def _next(self) -> tuple[list[Infer], TensorEngine] | None:
        """What this thread is to run, and by which session. None: the agent said stop."""
        self._listen()  # what came while all ran
        if taken := self._take():
            return taken
        with self._ear:
            while not self._over.is_set():
                if taken := self._take():
                    return taken
                self._wait()
                self._hear()
                self._look_after()
        return None

    def _take(self) -> tuple[list[Infer], TensorEngine] | None:
        with self._guard:
            if self._over.is_set() or len(self._running) == self._runners:
                return None
            if not (items := self._batcher.take(time.monotonic())):
                return None
            engine = self._engine if self._running or len(self._batcher) else self._lone
            self._running[threading.get_ident()] = time.monotonic()
            return [self._asked.pop(item.id) for item in items], engine

    # Who hears.

    def _wait(self) -> None:
        """Until the agent says something, or a batch is due."""
        with self._guard:
            due = self._batcher.due()
        wait = IDLE_BEAT if due is None else min(IDLE_BEAT, max(LEAST_WAIT, due - time.monotonic()))
        self._incoming.poll(1000 * wait)

    def _hear(self) -> None:
        """What the agent has said."""
        try:
            count = self._link.recv_into(self._room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not count:
            raise AgentGone
        with self._guard:
            for frame in self._reader.feed(self._room[:count]):
                self._handle(frame)

    def _handle(self, frame: ToWorker) -> None:
        match frame:
            case Infer():
                self._asked[frame.id] = frame
                self._batcher.add(self._item(frame))
            case Cancel():
                if self._batcher.remove(frame.id):
                    self._drop([self._asked.pop(frame.id)])
            case Stop():
                self._over.set()

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
        with self._guard:
            hangs = any(now - since > self._deadline_s for since in self._running.values())
            late = self._batcher.late(now)
            self._drop([self._asked.pop(item.id) for item in late])
            waiting = len(self._batcher)
            read: list[int] = []
            if tells := bool(late) or now - self._beaten >= IDLE_BEAT:
                self._beaten = now
                read, self._read = self._read, []
        if hangs:
            print(f"a run took longer than {self._deadline_s:g} s", file=sys.stderr)
            raise SystemExit(4)
        if tells:
            text = "the deadline has passed"
            refused = [_refused(one.id, "deadline_exceeded", text) for one in late]
            self._send(Ran(refused, waiting=waiting, read=read))

    def _drop(self, frames: Sequence[Infer]) -> None:
        """Their tensors are not needed any more."""
        self._read += [frame.lent[0][0] for frame in frames if frame.lent]

    # A run.

    def _answer(self, batch: Sequence[Infer], engine: TensorEngine) -> list[Answered]:
        try:
            return self._run(batch, engine)
        except EngineError as error:
            if len(batch) == 1:
                return [_refused(batch[0].id, "invalid_request", str(error))]
        except Exception as error:  # noqa: BLE001 - the runner has others to serve
            if len(batch) == 1:
                return [_refused(batch[0].id, "internal_error", f"{type(error).__name__}: {error}"[:500])]
        return [answer for one in batch for answer in self._answer([one], engine)]

    def _run(self, batch: Sequence[Infer], engine: TensorEngine) -> list[Answered]:
        names = batch[0].outputs or tuple(spec.name for spec in engine.info.outputs)
        whole = [self._lent.whole(one) if self._lent else one for one in batch]
        parts = [[tensors.to_array(tensor) for tensor in one.inputs] for one in whole]
        inputs = {
            tensor.name: tensors.together([part[at] for part in parts])
            for at, tensor in enumerate(batch[0].inputs)
        }
        found = engine.run(inputs, names)
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


def serve_tensors(
    engine: TensorEngine,
    load: Callable[[dict[str, Any]], Any],
    link: socket.socket,
    lent: Borrower,
    settings: dict[str, Any],
) -> None:
    """Say how it will be run, then do. `load`: another session. EngineError, and as `TensorWorker.run`."""
    lone: TensorEngine | None = load(of_lone(settings)) if settings.get("lone_threads") else None
    sharing.take_share(sharing.TENSORS * settings.get("cpu_share", 1.0))
    details = {name: settings.get(name) for name in ARRANGED}
    send(link, TensorsReady(replace(engine.info, details={**engine.info.details, **details}), borrows=True))
    batcher = Batcher(settings["cap"], settings["opt_batch_size"], settings["delay_ms"] / 1000)
    TensorWorker(engine, link, batcher, settings["runners"], settings["run_deadline_s"], lone, lent).run()
