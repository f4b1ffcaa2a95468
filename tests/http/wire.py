"""HTTP by hand, for what no client would send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.support.agent import Agent


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def dial(agent: Agent, *, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(30)
    client.connect(("127.0.0.1", agent.port))
    return client


def head(
    path: str, *lines: str, method: str = "POST", host: str | None = "localhost", json_type: bool = True
) -> bytes:
    fields = [f"{method} {path} HTTP/1.1", *lines]
    if host is not None:
        fields.append(f"Host: {host}")
    if json_type:
        fields.append("Content-Type: application/json")
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


def post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return head(path, f"Content-Length: {len(data)}") + data


def ask(agent: Agent, *data: bytes) -> Answer:
    """Send, and read one answer. What the server no longer wants to hear is not sent."""
    with dial(agent) as client:
        return exchange(client, data)


def exchange(client: socket.socket, data: Iterable[bytes]) -> Answer:
    try:
        for piece in data:
            client.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the answer may be here all the same
    return read_answer(client)


def read_answer(client: socket.socket) -> Answer:
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += _some(client)
    top, _, body = seen.partition(b"\r\n\r\n")
    first, *fields = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    while len(body) < int(headers["content-length"]):
        body += _some(client)
    return Answer(int(first.split()[1]), headers, body)


def _some(client: socket.socket) -> bytes:
    data = client.recv(65536)
    assert data, "the server closed the connection without a whole answer"
    return data


def until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)
