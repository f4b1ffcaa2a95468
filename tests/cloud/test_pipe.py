"""A stream through a broker: in order, each byte once, or it ends."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.tunnel.pipe import Pipe


def message(number: int, data: bytes) -> bytes:
    return struct.pack(">I", number) + data


async def passed_on(*messages: bytes) -> tuple[bytes, list[bytes]]:
    """What comes out of the local socket until it ends, and what was said to the other side."""
    said: list[bytes] = []

    async def send(one: bytes) -> None:
        said.append(one)

    pipe = Pipe(send)
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=near)
    mine, out = await asyncio.open_unix_connection(sock=far)
    for one in messages:
        pipe.take(one)
    running = asyncio.create_task(pipe.run(reader, writer))
    found = await mine.read()
    await running
    out.close()
    return found, said


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_what_comes_twice_is_passed_on_once(pieces: list[bytes], data: st.DataObject) -> None:
    messages = [message(number, piece) for number, piece in enumerate([*pieces, b""])]
    for at in data.draw(st.lists(st.integers(0, max(0, len(messages) - 2)), max_size=4)):
        messages.insert(at + 1, messages[at])  # in the order in which a broker gives it again
    found, said = asyncio.run(passed_on(*messages))
    assert found == b"".join(pieces)
    assert said == [message(0, b"")]


@pytest.mark.parametrize(
    "wrong", [message(2, b"too far"), b"", b"\0\0\0", b"\xff" * 9], ids=["gap", "empty", "short", "nonsense"]
)
async def test_with_what_is_missing_or_wrong_the_stream_is_over(wrong: bytes) -> None:
    found, said = await passed_on(message(0, b"first"), wrong, message(1, b"never"))
    assert found == b"first"
    assert said == [message(0, b"")], "the other side hears of it"


async def test_what_the_local_side_says_is_cut_into_numbered_messages() -> None:
    said: list[bytes] = []

    async def send(one: bytes) -> None:
        said.append(one)

    near, far = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=near)
    far.sendall(b"0123456789")
    far.close()
    await Pipe(send, piece=4).run(reader, writer)
    assert said == [message(0, b"0123"), message(1, b"4567"), message(2, b"89"), message(3, b"")]
