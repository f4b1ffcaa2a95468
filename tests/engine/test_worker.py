"""What a Worker refuses, and lives on: heard at its end of the socket pair."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.engines.engine import CannotEmbed, EmbedPiece
from agent.frames import Beat, Reader, Said, Start, Stop, ToAgent, encode
from agent.pace import Pace
from agent.request import Sampling
from agent.worker import Worker
from tests.plugins.echo.echo_engine import EchoEngine, load


class Cramped(EchoEngine):
    """It has no memory for vectors the first time."""

    asked = 0

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        self.asked += 1
        if self.asked == 1:
            raise CannotEmbed("no memory")
        return super().embed(pieces, dropped)


def start(id: str, prompt: str, *, embed: bool = False) -> Start:
    return Start(id, prompt, Sampling(), 50, (), 1, 5, None, 1, embed=embed)


class Line:
    """The agent's end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._reader = Reader(ToAgent)

    def ask(self, *starts: Start) -> list[Said]:
        """Until each has ended: all that was said."""
        self._link.sendall(b"".join(map(encode, starts)))
        said: list[Said] = []
        while sum(one.chunk is None or one.chunk.finish is not None for one in said) < len(starts):
            for frame in self._reader.feed(self._link.recv(1 << 20)):
                said += frame.said if isinstance(frame, Beat) else []
        return said


@contextmanager
def working(engine: EchoEngine) -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    thread = threading.Thread(target=Worker(engine, theirs, Pace(0.05, 64)).run)
    thread.start()
    yield Line(ours)
    ours.sendall(encode(Stop()))
    thread.join(20)
    assert not thread.is_alive()
    ours.close()
    theirs.close()


def echo(path: Path) -> EchoEngine:
    return load(str(path), {}, lambda _: None)


def test_texts_that_there_is_no_memory_for_are_refused_and_answers_go_on(echo_model: Path) -> None:
    with working(Cramped(echo(echo_model).info, 0)) as line:
        texts = [start(f"t{at}", "x" * 200, embed=True) for at in range(6)]
        said = line.ask(start("chat", "still here"), *texts)
        refused = {one.id: (one.code, one.message) for one in said if one.chunk is None}
        assert refused == {one.id: ("model_unavailable", "no memory") for one in texts}
        assert "".join(one.chunk.text for one in said if one.chunk) == "still here"
        (vector,) = line.ask(start("later", "x" * 50, embed=True))
        assert vector.chunk
        assert vector.chunk.vector


def test_an_engine_that_makes_vectors_alone_is_asked_for_no_answer(echo_model: Path) -> None:
    engine = echo(echo_model)
    engine.info = replace(engine.info, generates=False)
    with working(engine) as line:
        (refused,) = line.ask(start("a", "hello"))
        assert (refused.chunk, refused.code) == (None, "invalid_request")
        assert "embeddings alone" in refused.message
        (vector,) = line.ask(start("b", "hello", embed=True))
        assert vector.chunk
