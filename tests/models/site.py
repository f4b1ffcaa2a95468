"""A real HTTP server on loopback that can be told to misbehave as servers do."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Served:
    """One address. The lists are used up, an item a request; then the file is served as it should be."""

    data: bytes = b""
    etag: str | None = None  # None: made of the content; "": none is sent
    ranges: bool = True
    length: bool = True  # False: no Content-Length, the connection's end is the file's
    redirect: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # send so many bytes of the body, then drop the connection
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    token: str = ""  # asked for as a bearer
    hold_at: int | None = None  # send so many bytes, then wait for `go`
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def mark(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"' if self.etag is None else self.etag


@dataclass(frozen=True)
class Seen:
    target: str
    headers: dict[str, str]  # keys in lower case
    status: int


class Site:
    """`site.served["/path"] = Served(...)`; what was asked is in `site.seen`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.served: dict[str, Served] = {}
        self.seen: list[Seen] = []
        self.dynamic: Callable[[str], Served | None] = lambda path: None
        site = self

        class Handler(_Handler):
            owner = site

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def asked(self, path: str) -> list[Seen]:
        return [one for one in self.seen if urlsplit(one.target).path == path]

    def stop(self) -> None:
        for one in self.served.values():
            one.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for happens in another thread or process)
        await asyncio.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    owner: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        path = urlsplit(self.path).path
        served = self.owner.served.get(path) or self.owner.dynamic(self.path)
        if served is None:
            return self._answer(404, {})
        if served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            return self._answer(
                401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
            )
        if served.redirect:
            return self._answer(302, {"Location": served.redirect, **served.headers})
        if served.statuses:
            return self._answer(*served.statuses.pop(0))
        return self._file(served)

    def _file(self, served: Served) -> None:
        mark, start, status = served.mark, 0, 200
        headers = {"ETag": mark} if mark else {}
        if mark and self.headers.get("If-None-Match") == mark:
            return self._answer(304, headers)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and served.ranges and self.headers.get("If-Range", mark) == mark:
            start, status = int(asked[1]), 206
            if start >= len(served.data):
                return self._answer(416, {"Content-Range": f"bytes */{len(served.data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(served.data) - 1}/{len(served.data)}"
        body = served.data[start:]
        if served.length:
            headers["Content-Length"] = str(len(body))
        self._head(status, {**headers, **served.headers})
        self._body(served, body)

    def _body(self, served: Served, body: bytes) -> None:
        cut = served.cuts.pop(0) if served.cuts else len(body)
        hold = served.hold_at if served.hold_at is not None else len(body)
        try:
            self.wfile.write(body[: min(cut, hold)])
            self.wfile.flush()
            if hold < cut:
                served.go.wait(60)
                self.wfile.write(body[hold:cut])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client went away

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, {"Content-Length": "0", **headers})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        lowered = {key.lower(): value for key, value in self.headers.items()}
        self.owner.seen.append(Seen(self.path, lowered, status))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Connection", "close")
        self.end_headers()
