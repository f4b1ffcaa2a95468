"""The way to the one server that a remote Engine may reach: its requests, tries, errors and bounds.

No proxy, no redirect and no other address: a request goes to the configured origin or nowhere. The key is
in no message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from agent.engines.engine import EngineError
from agent.errors import (
    AgentError,
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    PromptTooLong,
    Unavailable,
    UpstreamFailed,
)
from models.remote import Remote

LOOK_S = 10.0  # for an answer, when the server is only asked whether it is well
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # seconds before another try; one asked to wait longer is told so
REST_S = 0.5  # for what follows a stream's end
MOST_ERROR = 64 * 1024  # bytes of an error's body
MOST_KEY = 4096  # bytes
TOO_LONG = (b"context_length_exceeded", b"exceed_context_size_error", b"maximum context length")
"""How servers say that a prompt has too many tokens: OpenAI and we, llama.cpp, vLLM."""
T = TypeVar("T")


class TryAgain(Exception):
    """What went wrong may be better soon. `error`: what is told if nobody tries."""

    def __init__(self, error: AgentError) -> None:
        self.error = error


class Upstream:
    def __init__(self, remote: Remote, base: str, keys: Path) -> None:
        self._remote, self._base = remote, base
        self._key = read_key(remote, keys)
        headers = {"User-Agent": "open-autoglm-edge", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(remote.timeout_s, connect=remote.connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=remote.concurrency),
            verify=httpx.create_ssl_context(),  # SSL_CERT_FILE and SSL_CERT_DIR count, proxies do not
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def persist(
        self,
        attempt: Callable[[], Awaitable[T]],
        deadline: float | None,
        may_repeat: Callable[[], bool] = lambda: True,
    ) -> T:
        """What `attempt` returns, tried as often as is configured while it raises TryAgain. AgentError."""
        for tries in itertools.count():
            try:
                return await attempt()
            except TryAgain as failed:
                asked = failed.error.retry_after or 0
                pause = max(backoff(tries), asked)
                late = deadline is not None and time.monotonic() + pause >= deadline
                if tries >= self._remote.retries or not may_repeat() or late or asked > LONGEST_PAUSE:
                    raise failed.error from None
            await asyncio.sleep(pause)
        raise AssertionError  # count() has no end

    @asynccontextmanager
    async def request(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A good answer whose body is still to be read, inside. Raises TryAgain and AgentError."""
        with self._translated():
            async with self._client.stream(
                method, self._base + path, content=content or None, headers=headers
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response, await self._whole(response, MOST_ERROR))
                yield response

    async def look(self, path: str, most: int) -> tuple[int, bytes]:
        """Status and body of a small GET, whatever the status. Raises AgentError."""
        try:
            with self._translated():
                async with (
                    asyncio.timeout(LOOK_S + self._remote.connect_timeout_s),
                    self._client.stream("GET", self._base + path) as response,
                ):
                    return response.status_code, await self.whole(response, most)
        except TryAgain as failed:
            raise failed.error from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectTimeout, httpx.ConnectError) as error:
            raise TryAgain(Unavailable(self.says(f"cannot be reached ({_why(error)})"))) from None
        except (httpx.TimeoutException, TimeoutError):
            raise DeadlineExceeded(self.says("does not answer")) from None
        except httpx.TransportError as error:
            raise TryAgain(Unavailable(self.says(f"broke off ({_why(error)})"))) from None

    async def whole(self, response: httpx.Response, most: int) -> bytes:
        """The body. UpstreamFailed: it is larger."""
        body = await self._whole(response, most)
        if len(body) > most:
            raise UpstreamFailed(self.says(f"answered with more than {most} bytes"))
        return body

    async def rest(self, pieces: AsyncIterator[bytes]) -> None:
        """Read what follows a stream's end, if it is soon over: then the connection can be used again."""
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(REST_S):
                async for _ in pieces:
                    pass

    def says(self, what: str) -> str:
        return f"the server at {self._base} {what}"

    def refusal(self, status: int, body: bytes, retry_after: float | None = None) -> AgentError | TryAgain:
        """What a status other than 200 means to the caller."""
        why = f": {text}" if (text := self._message(body)) else ""
        if status in (401, 403):  # the caller's own key was good
            return UpstreamFailed(self.says(f"refuses this node's key ({status})"))
        if 300 <= status < 400:
            return UpstreamFailed(self.says(f"points elsewhere ({status}), which is not followed"))
        if status in (400, 413, 422):
            too_long = any(word in body for word in TOO_LONG)
            return (PromptTooLong if too_long else BadRequest)(text or self.says(f"refuses this ({status})"))
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return TryAgain(Overloaded(self.says(f"has too much to do{why}"), retry_after=retry_after))
        if status in (502, 503, 504):
            return TryAgain(
                Unavailable(self.says(f"cannot answer now ({status}){why}"), retry_after=retry_after)
            )
        return UpstreamFailed(self.says(f"answered {status}{why}"))

    def _refusal(self, response: httpx.Response, body: bytes) -> AgentError | TryAgain:
        asked = response.headers.get("retry-after", "")
        return self.refusal(
            response.status_code, body, float(asked) if re.fullmatch(r"\d{1,6}", asked) else None
        )

    def _message(self, body: bytes) -> str:
        """Of an error's body, in any of the usual shapes; "" where it has none. Fit to be shown."""
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        told = told.get("error", told) if isinstance(told, dict) else ""
        if isinstance(told, dict):
            told = told.get("message") or told.get("detail") or ""
        text = "".join(one for one in str(told) if one.isprintable())
        return (text.replace(self._key, "***") if self._key else text)[:500]

    async def _whole(self, response: httpx.Response, most: int) -> bytes:
        """The body, or somewhat more than `most` bytes of it. As it is: nothing is decompressed."""
        body = bytearray()
        async for data in response.aiter_raw():
            body += data
            if len(body) > most:
                break
        return bytes(body)


def read_key(remote: Remote, keys: Path) -> str:
    """The secret that the description names; "" where it names none. EngineError: it is not there."""
    if remote.api_key_env:
        if not (key := os.environ.get(remote.api_key_env, "").strip()):
            raise EngineError(f"the variable {remote.api_key_env} is not set for the agent: it holds the key")
    elif remote.api_key_file:
        key = _from_file(keys / remote.api_key_file)
    else:
        return ""
    if not re.fullmatch(r"[!-~]+", key):
        raise EngineError(f"what {remote.api_key_env or remote.api_key_file} holds cannot be a key")
    return key


def _from_file(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise EngineError(f"{path} is no file")
        with path.open("rb") as file:
            return file.read(MOST_KEY).decode("latin-1").strip()
    except OSError as error:
        raise EngineError(f"the key cannot be read from {path}: {error.strerror}") from None


def parsed(body: bytes) -> Any:
    """ValueError: it is no JSON."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def backoff(tries: int) -> float:
    """Seconds until another try after so many and one; never more than the longest pause."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**tries * random.uniform(0.75, 1.25))  # noqa: S311


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
