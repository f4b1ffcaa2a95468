"""Whoever asks a model of tensors alone is served by all threads; once there are others, as they are."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent import device
from agent.batcher import Batcher
from agent.config import Settings
from agent.engines.onnx import OnnxEngine
from agent.frames import Infer, Ran, Reader, Stop, ToAgent, encode
from agent.memory import Memory
from agent.offered import Offered
from agent.probe import Measured, Probes
from agent.tensor import Tensor
from agent.tensor_worker import TensorWorker
from models.onnx import read_header

TOLERANCE = 1e-5
"""Of probabilities: another number of threads takes sums in another order."""
Rows = NDArray[np.int32]


class Watched:
    """The real Engine, and what was seen of its runs."""

    def __init__(self, path: Path, threads: int, running: dict[object, int]) -> None:
        how = {"threads": threads, "runners": 2, "gpu": False, "spin": threads > 1}
        self._engine = OnnxEngine(str(path), how, lambda _: None)
        self.info, self.example, self.close = self._engine.info, self._engine.example, self._engine.close
        self.beside: list[int] = []  # of each run: how many others had begun and not ended, by either Engine
        self._running, self._lock = running, threading.Lock()
        running[self] = 0

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        with self._lock:
            self.beside.append(sum(self._running.values()))
            self._running[self] += 1
        try:
            return self._engine.run(inputs, outputs)
        finally:
            with self._lock:
                self._running[self] -= 1


class Caller:
    """The agent's end of the socket pair."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._reader, self._ids = link, Reader(ToAgent), itertools.count()
        self.answers: list[str] = []  # ids, as they come

    def ask(self, rows: Rows) -> list[NDArray[np.float32]]:
        """Each row by a request of its own, all at once; the answers in their order."""
        ids = [str(next(self._ids)) for _ in rows]
        inputs = [Tensor("bytes", "INT32", (1, 2048), row.tobytes()) for row in rows]
        frames = [encode(Infer(id, (one,), (), 5, None)) for id, one in zip(ids, inputs, strict=True)]
        self._link.sendall(b"".join(frames))
        found: dict[str, NDArray[np.float32]] = {}
        while not found.keys() >= set(ids):
            for frame in self._reader.feed(self._link.recv(1 << 16)):
                for one in frame.answered if isinstance(frame, Ran) else ():
                    assert one.outputs, one.message
                    found[one.id] = np.frombuffer(one.outputs[0].data, np.float32)
                    self.answers.append(one.id)
        return [found[id] for id in ids]

    def stop(self) -> None:
        self._link.sendall(encode(Stop()))


@pytest.fixture(scope="module")
def engines(magika_path: Path) -> tuple[Watched, Watched]:
    running: dict[object, int] = {}
    return Watched(magika_path, 1, running), Watched(magika_path, 2, running)


@pytest.fixture
def caller(engines: tuple[Watched, Watched]) -> Iterator[Caller]:
    """Of a Worker with two runs at once of a row each, and a second session."""
    usual, lone = engines
    usual.beside.clear()
    lone.beside.clear()
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, theirs:
        worker = TensorWorker(usual, theirs, Batcher(1), 2, 60, lone)
        thread = threading.Thread(target=worker.run)
        thread.start()
        caller = Caller(ours)
        yield caller
        caller.stop()
        thread.join(60)
        assert not thread.is_alive()


def rows(count: int, seed: int) -> Rows:
    return np.random.default_rng(seed).integers(0, 257, (count, 2048), np.int32)


def expected(engine: Watched, asked: Rows) -> NDArray[np.float32]:
    found: NDArray[np.float32] = engine._engine.run({"bytes": asked}, ["target_label"])[0]
    return found


def test_a_lone_caller_is_served_by_all_threads_and_gets_equal_results(
    engines: tuple[Watched, Watched], caller: Caller
) -> None:
    usual, lone = engines
    for seed in range(5):
        asked = rows(1, seed)
        (answer,) = caller.ask(asked)
        np.testing.assert_allclose(answer, expected(usual, asked)[0], atol=TOLERANCE)
    assert (len(lone.beside), len(usual.beside)) == (5, 0)


def test_of_several_callers_no_run_is_lost_or_made_twice_and_none_has_all_threads_beside_others(
    engines: tuple[Watched, Watched], caller: Caller
) -> None:
    usual, lone = engines
    counts = [1, 7, 1, 2, 12, 1, 3]
    for seed, count in enumerate(counts):
        asked = rows(count, seed)
        np.testing.assert_allclose(caller.ask(asked), expected(usual, asked), atol=TOLERANCE)
    assert sorted(map(int, caller.answers)) == list(range(sum(counts)))
    assert len(usual.beside) + len(lone.beside) == sum(counts)
    assert len(lone.beside) >= counts.count(1)
    assert len(usual.beside) >= sum(counts) // 2
    assert set(lone.beside) == {0}


def offered(path: Path) -> Offered:
    header = read_header(path)
    return Offered("magika", "1", str(path), path.stat().st_size, 0, tensors=header)


async def test_whether_a_second_session_pays_is_tried_once_and_remembered(
    magika_path: Path, tmp_path: Path
) -> None:
    way = {"cap": 1, "runners": 2, "threads": 2}
    settings = Settings(data_dir=tmp_path, models={"magika": way}, gpu_layers=0)
    first = await device.engine_settings(settings, offered(magika_path), Memory(None))
    assert first["lone_threads"] in (None, 2)
    usual = device.trial_of(settings, "magika", "onnx", {})
    assert usual
    found = Measured(usual.candidates[0], None)
    trial = device.lone_trial(settings, "magika", usual.basic, found, offered(magika_path).size)
    assert [one["lone_threads"] for one in trial.candidates] == [None, 2]
    probes = tmp_path / "probes.json"
    known = Probes(probes).recall("onnx", str(magika_path), trial.basic, trial.candidates)
    assert known
    assert known.choice == {"lone_threads": first["lone_threads"]}
    tried_at = probes.stat().st_mtime_ns
    assert await device.engine_settings(settings, offered(magika_path), Memory(None)) == first
    assert probes.stat().st_mtime_ns == tried_at


def test_a_second_session_that_is_set_or_cannot_pay_is_not_tried() -> None:
    def tried(seconds: float, size: int, **own: int) -> list[int | None]:
        settings = Settings(models={"m": {"threads": 2, **own}})
        way = Measured({"cap": 1, "runners": 2, "threads": 1}, seconds)
        return [one["lone_threads"] for one in device.lone_trial(settings, "m", {}, way, size).candidates]

    small, large = 1 << 20, 1 << 30
    assert tried(0.01, small) == [None, 2]
    assert tried(0.00001, small) == [None]
    assert tried(0.01, large) == [None]
    assert tried(0.01, large, lone_threads=2) == [2]
    assert tried(0.01, small, lone_threads=1) == [None]
