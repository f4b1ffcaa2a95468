"""One file over HTTP, resumed after any interruption, checked against size and digest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.address import without_secrets
from models.errors import PullError, WrongDigest
from models.format import may_be_model
from models.shelf import Shelf, Version
from models.sources import web
from models.sources.origin import Fetched
from models.sources.part import Part
from models.sources.progress import Meter
from models.sources.threads import in_thread
from models.sources.work import make_room

_FLUSH = 1024 * 1024  # bytes gathered before a thread writes them, or
_FLUSH_S = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class FromWeb:
    """A file behind a URL. `size` and `sha256` are what somebody trusted promises; None: nobody does."""

    url: str = field(repr=False)
    sha256: str | None = None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_model: bool = True  # not only a file that belongs to one

    @property
    def identity(self) -> str:
        return f"url {self.url} {self.sha256 or ''}"

    @property
    def shown(self) -> str:
        return without_secrets(self.url)

    async def is_unchanged(self, version: Version) -> bool:
        if not (etag := version.manifest.etag):
            return False
        headers = {**self.headers, "If-None-Match": etag}
        async with web.client() as client, client.stream("GET", self.url, headers=headers) as response:
            return response.status_code == httpx.codes.NOT_MODIFIED

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        part = await in_thread(Part, folder, self.shown)
        try:
            await in_thread(part.resume)
            resumed = part.done > 0
            await _Download(self, part, meter, shelf).run()
            if self.sha256 not in (None, part.digest()) and resumed:
                await in_thread(part.begin, "", None)  # the old part may have been of another file
                await _Download(self, part, meter, shelf).run()
            if self.sha256 not in (None, part.digest()):
                got = part.digest()
                await in_thread(part.begin, "", None)
                raise WrongDigest(f"{self.shown}: the file's SHA-256 is {got}, not {self.sha256} as promised")
            return Fetched(part.path, part.done, part.digest(), part.etag)
        finally:
            await in_thread(part.close)


class _Download:
    """The tries that bring one file."""

    def __init__(self, origin: FromWeb, part: Part, meter: Meter, shelf: Shelf) -> None:
        self._origin = origin
        self._part = part
        self._meter = meter
        self._shelf = shelf

    async def run(self) -> None:
        part, failures = self._part, 0
        async with web.client() as client:
            while part.total is None or part.done < part.total:
                before = part.done
                try:
                    await self._attempt(client)
                    return
                except web.TEMPORARY as error:
                    failures = 1 if part.done > before else failures + 1
                    await web.pause(failures, error, part.done > 0, self._origin.shown)

    async def _attempt(self, client: httpx.AsyncClient) -> None:
        """One request for what is missing. Returns when the file is whole."""
        part = self._part
        headers = {"Accept-Encoding": "identity", **self._origin.headers}
        if part.done and (part.etag or self._origin.sha256):
            headers["Range"] = f"bytes={part.done}-"
            if part.etag:
                headers["If-Range"] = part.etag
        async with client.stream("GET", self._origin.url, headers=headers) as response:
            await self._prepare(response)
            try:
                await self._receive(response)
            finally:
                await in_thread(part.sync)
        if part.total is not None and part.done != part.total:
            raise web.TryAgain(f"the connection ended after {part.done} of {part.total} bytes")

    async def _prepare(self, response: httpx.Response) -> None:
        """Make the part agree with what the response will bring."""
        part = self._part
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.done:
            await in_thread(part.begin, "", None)
            raise web.TryAgain("the file has become shorter")
        web.judge(response, self._origin.shown)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PullError(f"{self._origin.shown}: the server compresses the file, which was not asked for")
        start, total = _range_of(response)
        if start == 0:
            await in_thread(part.begin, _strong_etag(response), total)
        elif start != part.done or part.total not in (None, total):
            await in_thread(part.begin, "", None)
            raise web.TryAgain("the server sent another range than the one asked for")
        if self._origin.size is not None and total not in (None, self._origin.size):
            raise WrongDigest(
                f"{self._origin.shown}: the file has {total} bytes, not {self._origin.size} as promised"
            )
        need = (total or self._origin.size or part.done) - part.done
        await in_thread(make_room, self._shelf, need, self._origin.shown)

    async def _receive(self, response: httpx.Response) -> None:
        gathered, flushed = bytearray(), time.monotonic()
        try:
            async for chunk in response.aiter_raw():
                gathered += chunk
                if len(gathered) >= _FLUSH or time.monotonic() - flushed >= _FLUSH_S:
                    await self._write(gathered)
                    flushed = time.monotonic()
        except (httpx.TransportError, asyncio.CancelledError):
            await self._write(gathered)  # what came is not asked for again
            raise
        await self._write(gathered)

    async def _write(self, gathered: bytearray) -> None:
        part = self._part
        if not gathered:
            return
        if part.done == 0 and self._origin.is_model and not may_be_model(gathered):
            raise PullError(
                f"{self._origin.shown} is not a GGUF or ONNX file (perhaps a web page, or an error text)"
            )
        if part.total is None:
            await in_thread(make_room, self._shelf, len(gathered), self._origin.shown)
        await in_thread(part.write, bytes(gathered))
        gathered.clear()
        self._meter("downloading", part.done, part.total)


def _range_of(response: httpx.Response) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's size if the server tells."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdecimal() else None
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        raise PullError("the server sent a part of the file without saying which")
    return int(start), int(total) if total.isdecimal() else None


def _strong_etag(response: httpx.Response) -> str:
    etag = str(response.headers.get("etag", ""))
    return etag if etag.startswith('"') else ""
