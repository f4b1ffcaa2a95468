"""The least that an application on uvicorn can do: read the body, answer what BENCH_ANSWER's file holds."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.types import Receive, Scope, Send

ANSWER = Path(os.environ["BENCH_ANSWER"]).read_bytes()
HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(ANSWER)).encode())]
if length := os.environ.get("BENCH_HEADER_LENGTH"):  # where JSON of so many bytes comes before raw tensors
    HEADERS.append((b"inference-header-content-length", length.encode()))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
