"""What is promised of a remote Model below its door: frames, pauses, what another Version was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from agent.engines.engine import EngineInfo
from agent.engines.upstream import LONGEST_PAUSE, backoff
from agent.frames import MOST_TOGETHER, Beat, Reader, Start, Stop, ToAgent, encode
from agent.remote_worker import RemoteTextWorker
from agent.request import Chunk, Sampling


def start(*, embed: bool = False) -> Start:
    return Start("a", "hello", Sampling(), 5, (), 1, 5, None, 1, embed=embed)


class Bursts:
    """A server that says all at once: more than a frame should have."""

    concurrency = 1

    async def look(self) -> EngineInfo:
        return EngineInfo("bursts", 1, 0, 0, "remote")

    async def answer(self, asked: Start, say: Callable[[Chunk], None]) -> None:
        for _ in range(7):
            say(Chunk(0, "x" * (MOST_TOGETHER // 3)))
        say(Chunk(0, "", finish="stop"))

    async def close(self) -> None: ...


def test_what_waits_goes_in_as_many_frames_as_it_needs() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    thread = threading.Thread(target=RemoteTextWorker(Bursts()).serve, args=(theirs,))
    thread.start()
    ours.sendall(encode(start()))
    reader, sizes, ended = Reader(ToAgent), [], False
    while not ended:
        for frame in reader.feed(ours.recv(1 << 20)):
            chunks = [one.chunk for one in frame.said if one.chunk] if isinstance(frame, Beat) else []
            sizes.append(sum(len(one.text) for one in chunks))
            ended = ended or any(one.finish for one in chunks)
    ours.sendall(encode(Stop()))
    thread.join(20)
    assert sum(sizes) == 7 * (MOST_TOGETHER // 3)
    assert max(sizes) < MOST_TOGETHER
    ours.close()
    theirs.close()


def test_no_pause_before_another_try_is_longer_than_the_longest() -> None:
    pauses = [backoff(tries) for tries in range(11) for _ in range(50)]
    assert 0 < min(pauses) < max(pauses) <= LONGEST_PAUSE
