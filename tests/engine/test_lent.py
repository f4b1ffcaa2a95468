"""Memory that is lent for large tensors: nobody reads another's, all of it comes back, and a full one costs
nothing but speed."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent import lent
from agent.batcher import Batcher
from agent.engines.onnx import OnnxEngine
from agent.frames import Cancel, Infer, Ran, Reader, Stop, ToAgent, ToWorker, encode
from agent.lent import Borrower, Lender, Pool
from agent.tensor import Tensor
from agent.tensor_worker import TensorWorker
from tests.support.agent import Agent
from tests.support.onnx_file import FLOAT, write_onnx

WIDE = {"inputs": [("x", FLOAT, (None, None))], "outputs": [("y", FLOAT, (None, None))]}
Row = NDArray[np.float32]


def asked(id: str, *values: Row, deadline: float | None = None) -> Infer:
    inputs = tuple(Tensor(f"x{at}", "FP32", (1, one.size), one.tobytes()) for at, one in enumerate(values))
    return Infer(id, inputs, (), 5, deadline)


def row(value: float, size: int = lent.LEAST) -> Row:
    return np.full(size, value, np.float32)


@pytest.fixture
def lender() -> Iterator[Lender]:
    one = Lender()
    yield one
    one.close()


# The parts.


@given(st.lists(st.integers(1, 5000) | st.just(-1), max_size=60), st.randoms(use_true_random=False))
def test_parts_never_overlap_and_all_come_back(sizes: list[int], chance: Any) -> None:
    pool, lives = Pool(16_384), {}
    for size in sizes:
        if size > 0 and (at := pool.take(size)) is not None:
            assert at + size <= 16_384
            assert all(at + size <= other or other + length <= at for other, length in lives.items())
            lives[at] = size
        elif lives:
            at = chance.choice(list(lives))
            pool.give(at)
            del lives[at]
    for at in lives:
        pool.give(at)
    assert pool.take(16_384) == 0


def test_a_part_that_was_not_lent_cannot_be_given_back() -> None:
    pool = Pool(1024)
    at = pool.take(100)
    assert at is not None
    pool.give(at)
    with pytest.raises(ValueError, match="not lent"):
        pool.give(at)


# The memory.


def test_what_is_lent_is_read_where_it_lies(lender: Lender) -> None:
    first, second = row(1.5), row(2.5, 12_345)
    there = Borrower(lender.fd).whole(lender.lend(asked("a", first, second)))
    for one, given_ in zip(there.inputs, (first, second), strict=True):
        assert isinstance(one.data, memoryview)
        np.testing.assert_array_equal(np.frombuffer(one.data, np.float32), given_)
    assert (there.id, there.inputs[1].shape) == ("a", (1, 12_345))


def test_small_tensors_and_those_that_find_no_room_go_in_their_frame(lender: Lender) -> None:
    small, large = asked("small", row(1, 16)), asked("large", row(1, lent.SIZE // 4))
    assert lender.lend(small) is small
    whole = lender.lend(large)
    assert whole.lent
    assert lender.lend(large) is large
    lender.given_back([whole.lent[0][0]])
    assert lender.lend(large).lent


def test_neither_side_can_cut_the_memory_short(lender: Lender) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(lender.fd, 0)


# The Worker.


class Gated:
    """The real Engine, which waits to be let through."""

    def __init__(self, path: Path) -> None:
        how = {"threads": 1, "runners": 1, "gpu": False}
        self._engine = OnnxEngine(str(path), how, lambda _: None)
        self.info, self.example, self.close = self._engine.info, self._engine.example, self._engine.close
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        self.begun.release()
        assert self.gate.acquire(timeout=60)
        return self._engine.run(inputs, outputs)


@pytest.fixture
def engine(tmp_path: Path) -> Gated:
    how = {"inputs": [("x0", FLOAT, (None, None))], "outputs": [("y", FLOAT, (None, None))]}
    return Gated(write_onnx(tmp_path / "wide.onnx", **how))


@pytest.fixture
def line(engine: Gated, lender: Lender) -> Iterator[socket.socket]:
    """To a Worker with one run at once."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, theirs:
        worker = TensorWorker(engine, theirs, Batcher(1), 1, 60, lent=Borrower(lender.fd))
        thread = threading.Thread(target=worker.run)
        thread.start()
        yield ours
        ours.sendall(encode(Stop()))
        thread.join(60)
        assert not thread.is_alive()


def test_every_part_comes_back_once_whether_it_was_run_or_cancelled_or_late(
    engine: Gated, lender: Lender, line: socket.socket
) -> None:
    frames = {id: lender.lend(asked(id, row(at))) for at, id in enumerate(("runs", "waits", "cancelled"))}
    frames["late"] = lender.lend(asked("late", row(9), deadline=time.monotonic() + 0.01))
    send(line, *frames.values())
    assert engine.begun.acquire(timeout=60)
    send(line, Cancel("cancelled"), Cancel("runs"))  # which it does already: its tensors are still read
    reader, told = Reader(ToAgent), []
    told += until(line, reader, lambda said: any(one.id == "late" for ran in said for one in ran.answered))
    assert frames["runs"].lent[0][0] not in [at for ran in told for at in ran.read]
    engine.gate.release(2)
    told += until(line, reader, lambda said: any(one.id == "waits" for ran in said for one in ran.answered))
    back = [at for ran in told for at in ran.read]
    assert sorted(back) == sorted(frame.lent[0][0] for frame in frames.values())
    answers = {one.id: one.outputs[0].data for ran in told for one in ran.answered if one.outputs}
    assert answers == {"runs": row(0).tobytes(), "waits": row(1).tobytes()}


def send(line: socket.socket, *frames: ToWorker) -> None:
    line.sendall(b"".join(map(encode, frames)))


def until(line: socket.socket, reader: Reader, done: Callable[[list[Ran]], bool]) -> list[Ran]:
    said: list[Ran] = []
    while not done(said):
        said += [one for one in reader.feed(line.recv(1 << 20)) if isinstance(one, Ran)]
    return said


# The whole agent.


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    own = {"wide": {"cap": 1, "runners": 2, "lone_threads": 1}}
    agent = start_agent(AUTOGLM_MODELS=json.dumps(own))
    agent.pull(write_onnx(tmp_path_factory.mktemp("onnx") / "wide.onnx", **WIDE), "wide")
    return agent


def echo(agent: Agent, value: float, size: int) -> None:
    """It must come back as it went."""
    given_ = row(value, size)
    head = {"name": "x", "datatype": "FP32", "shape": [1, size]}
    about = {
        "inputs": [head | {"parameters": {"binary_data_size": given_.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    data = json.dumps(about).encode()
    headers = {"Inference-Header-Content-Length": str(len(data))}
    url = f"{agent.base_url}/v2/models/wide/infer"
    answer = httpx.post(url, content=data + given_.tobytes(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    begin = int(answer.headers["Inference-Header-Content-Length"])
    np.testing.assert_array_equal(np.frombuffer(answer.content[begin:], np.float32), given_)


def test_more_than_the_memory_holds_is_answered_rightly(agent: Agent) -> None:
    size = lent.SIZE // 20
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda at: echo(agent, at, size), range(24)))


def test_workers_that_die_mix_nobodys_tensors_with_anothers(agent: Agent) -> None:
    with ThreadPoolExecutor(16) as pool:
        for round_ in range(3):
            echo(agent, 0, 8)  # by the Worker that is there now
            (worker,) = [one["worker"]["pid"] for one in agent.status()["models"] if one["name"] == "wide"]
            waiting = [pool.submit(echo, agent, 100 * round_ + at, 5_000 * (1 + at % 9)) for at in range(48)]
            while agent.metric("num_requests_running") < 4 and not all(one.done() for one in waiting):
                time.sleep(0.002)
            os.kill(worker, signal.SIGKILL)
            for one in waiting:
                one.result()
