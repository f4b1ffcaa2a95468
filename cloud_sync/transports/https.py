"""HTTPS with the node's certificate, through a proxy where one is set, or the environment names one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
from httpx_sse import SSEError, aconnect_sse
from pydantic import BaseModel, ValidationError

from cloud_sync.messages import API, Answer, Desired, Join, Joined, Received, Renew, Renewed, Report
from cloud_sync.transports.transport import Hint, LinkError, Rejected

TIMEOUT = httpx.Timeout(30, connect=10)
WHOLE_S = 120.0  # for a whole exchange: one that trickles is given up, too
SILENCE_S = 150.0  # on a stream of hints, which says something each minute
MOST_BYTES = 4 << 20  # of an answer
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: a node's clock may be wrong by years
_LIMITS = httpx.Limits(max_keepalive_connections=2, keepalive_expiry=70)
_HEADERS = {"user-agent": "autoglm", "accept": "*/*"}  # few: each heartbeat carries them

M = TypeVar("M", bound=BaseModel)


class Https:
    """`identity`: key and certificate in one file, PEM; read when this is made.

    `socket`: a local one that leads to the controller, in place of the network. `proxy`: None is the
    environment's, "none" is none.
    """

    def __init__(
        self,
        url: str,
        ca: Path,
        identity: Path | None,
        proxy: str | None = None,
        socket: Path | None = None,
    ) -> None:
        """LinkError: the identity cannot be used."""
        trust = pinned(ca.read_text(), identity)
        self._client = httpx.AsyncClient(
            base_url=url + API,
            verify=trust,
            timeout=TIMEOUT,
            headers=_HEADERS,
            trust_env=proxy is None,
            proxy=None if proxy == "none" else proxy,
            limits=_LIMITS,
            transport=_by_socket(socket, trust),
        )

    async def report(self, report: Report) -> Answer:
        body = report.model_dump_json(exclude_defaults=True)
        return await self._post("/node/report", body, Answer)

    async def desired(self, known: Desired | None) -> Desired | None:
        headers = {"if-none-match": known.etag} if known else {}
        status, content = await self._ask("GET", "/node/desired", headers=headers)
        return None if status == httpx.codes.NOT_MODIFIED else _read(status, content, Desired)

    async def hints(self) -> AsyncGenerator[Hint | None, None]:
        with _translated():
            timeout = httpx.Timeout(TIMEOUT.connect, read=SILENCE_S)
            async with aconnect_sse(self._client, "GET", "/node/hints", timeout=timeout) as source:
                if source.response.is_error:
                    _checked(source.response.status_code, await _body(source.response))
                yield None
                async for event in source.aiter_sse():
                    if event.event == "desired":
                        epoch, _, generation = event.id.rpartition(".")
                        yield Hint(int(epoch), int(generation)) if epoch else None  # of an older controller

    async def renew(self, asked: Renew) -> Renewed:
        return await self._post("/renew", asked.model_dump_json(), Renewed)

    async def join(self, asked: Join) -> Joined:
        return await self._post("/join", asked.model_dump_json(), Joined)

    async def leave(self) -> None:
        _checked(*await self._ask("POST", "/node/leave"))

    async def telemetry(self, batch: bytes) -> Received:
        return await self._post("/node/telemetry", batch, Received, {"content-encoding": "zstd"})

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(
        self, path: str, body: str | bytes, kind: type[M], more: Mapping[str, str] = MappingProxyType({})
    ) -> M:
        headers = {"content-type": "application/json", **more}
        return _read(*await self._ask("POST", path, content=body, headers=headers), kind)

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        return await _exchange(self._client, method, path, **more)


async def _exchange(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> tuple[int, bytes]:
    """Status and body, within WHOLE_S and MOST_BYTES."""
    with _translated():
        async with asyncio.timeout(WHOLE_S), client.stream(method, path, **more) as response:
            return response.status_code, await _body(response)


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MOST_BYTES:
            raise LinkError(f"the answer has more than {MOST_BYTES} bytes")
    return bytes(body)


def _by_socket(socket: Path | None, trust: ssl.SSLContext) -> httpx.AsyncHTTPTransport | None:
    if socket is None:
        return None
    return httpx.AsyncHTTPTransport(verify=trust, uds=str(socket), limits=_LIMITS)


async def fetch_ca(url: str, socket: Path | None = None) -> bytes:
    """The CA's certificate (PEM) as the server says, unverified: compare its fingerprint. LinkError."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    transport = _by_socket(socket, unverified)
    async with httpx.AsyncClient(verify=unverified, timeout=TIMEOUT, transport=transport) as client:
        return _checked(*await _exchange(client, "GET", f"{url}{API}/ca"))


def pinned(ca: str, identity: Path | None) -> ssl.SSLContext:
    """Trusts this CA alone, which issues servers' certificates to the controller alone: its name is free."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= NO_CHECK_TIME
    context.load_verify_locations(cadata=ca)
    if identity is not None:
        try:
            context.load_cert_chain(identity)
        except (OSError, ssl.SSLError) as error:
            raise LinkError(f"the identity in {identity} cannot be used: {error}") from error
    return context


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise LinkError(str(error) or type(error).__name__) from error
    except TimeoutError as error:
        raise LinkError(f"no whole answer in {WHOLE_S:.0f} s") from error
    except (httpx.HTTPError, SSEError, ssl.SSLError, ValueError) as error:
        raise LinkError(f"the controller's answer cannot be read: {error}") from error


def _read(status: int, content: bytes, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(_checked(status, content))
    except ValidationError as error:
        raise LinkError(f"the controller's answer cannot be read: {error}") from error


def _checked(status: int, content: bytes) -> bytes:
    """The content, if all is well. LinkError, Rejected."""
    if httpx.codes.is_success(status):
        return content
    error: Any = None
    with contextlib.suppress(ValueError):
        error = json.loads(content)
    error = error.get("error") if isinstance(error, dict) else None
    if isinstance(error, dict) and status < 500 and status not in (408, 429):
        code = "too_large" if status == 413 else str(error.get("code"))
        raise Rejected(code, str(error.get("message"))[:1000])
    raise LinkError(f"the controller answered {status}")
