"""A server that a remote Engine may be pointed at, and that does as it is told: fails, hangs, cuts, ..."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[["Handler"], None]


@dataclass
class Asked:
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Upstream:
    """`plan`: what it does with the next POSTs; then it answers well. `gets`: what GETs are answered with."""

    gets: dict[str, Any] = field(default_factory=dict)
    good: Step | None = None
    plan: deque[Step] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)  # a client hung up in the middle
    may_go_on: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Upstream:
        made = type("Bound", (Handler,), {"upstream": self})
        self._server = Server(("127.0.0.1", self.port), made)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server:
            self.may_go_on.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def next(self, *steps: Step) -> None:
        """Forget what was; do this with the next POSTs."""
        self.plan = deque(steps)
        self.asked.clear()
        self.gone.clear()
        self.may_go_on.clear()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class Handler(BaseHTTPRequestHandler):
    upstream: Upstream

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        found = self.upstream.gets.get(self.path)
        self.reply(404 if found is None else 200, found or {"error": "nothing is here"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked = Asked(self.path, dict(self.headers), raw)
        self.upstream.asked.append(self.asked)
        step = self.upstream.plan.popleft() if self.upstream.plan else self.upstream.good
        assert step is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            step(self)

    def reply(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()  # HTTP/1.0: it ends where the connection does

    def event(self, body: Any) -> None:
        self.wfile.write(
            b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"
        )
        self.wfile.flush()

    def wait_for_the_end(self) -> None:
        """Until the client hangs up."""
        self.connection.settimeout(20)
        with suppress(TimeoutError, ConnectionResetError):
            if self.connection.recv(1) == b"":
                self.upstream.gone.set()


def piece(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "text": text, "finish_reason": None, **more}
    return {"choices": [choice]}


def answer(*texts: str, usage: Mapping[str, Any] | None = None) -> Step:
    """A whole answer in these pieces."""

    def step(handler: Handler) -> None:
        handler.stream()
        for text in texts:
            handler.event(piece(text))
        handler.event(piece("", finish_reason="stop"))
        told = usage or {"prompt_tokens": 5, "completion_tokens": len(texts)}
        handler.event({"choices": [], "usage": told})
        handler.event(b"[DONE]")

    return step


def status(code: int, body: Any = None, **headers: str) -> Step:
    return lambda handler: handler.reply(
        code, {"error": {"message": "told so"}} if body is None else body, **headers
    )


def events(*bodies: Any) -> Step:
    """These events, and then the connection's end."""

    def step(handler: Handler) -> None:
        handler.stream()
        for body in bodies:
            handler.event(body)

    return step


def begin_and_wait(handler: Handler) -> None:
    """A piece, and the rest when the test lets it."""
    handler.stream()
    handler.event(piece("first"))
    handler.upstream.may_go_on.wait(20)
    for body in (piece(" second"), piece("", finish_reason="stop"), b"[DONE]"):
        handler.event(body)


def hang(handler: Handler) -> None:
    """Nothing, until the client hangs up."""
    handler.wait_for_the_end()


def begin_and_hang(handler: Handler) -> None:
    handler.stream()
    handler.event(piece("first"))
    handler.wait_for_the_end()


@contextmanager
def listening() -> Iterator[Upstream]:
    """One that nobody should reach."""
    one = Upstream(good=status(200)).start()
    yield one
    one.stop()
