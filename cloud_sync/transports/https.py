"""HTTPS with the node's certificate, through a proxy where one is set, or the environment names one."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
from httpx_sse import SSEError, aconnect_sse
from pydantic import BaseModel, ValidationError

from cloud_sync.messages import API, Answer, Desired, Join, Joined, Received, Renew, Renewed, Report
from cloud_sync.transports.transport import Hint, LinkError, Rejected

TIMEOUT = httpx.Timeout(30, connect=10)
SILENCE_S = 150.0  # on a stream of hints, which says something each minute
MOST_BYTES = 4 << 20  # of an answer
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: a node's clock may be wrong by years
_HEADERS = {"user-agent": "autoglm", "accept": "*/*"}  # few: each heartbeat carries them

M = TypeVar("M", bound=BaseModel)


class Https:
    """`identity`: key and certificate in one file, PEM; read when this is made."""

    def __init__(self, url: str, ca: Path, identity: Path | None, proxy: str | None = None) -> None:
        """`proxy`: None is the environment's, "none" is none. LinkError: the identity cannot be used."""
        self._client = httpx.AsyncClient(
            base_url=url + API,
            verify=pinned(ca.read_text(), identity),
            timeout=TIMEOUT,
            headers=_HEADERS,
            trust_env=proxy is None,
            proxy=None if proxy == "none" else proxy,
            limits=httpx.Limits(max_keepalive_connections=2, keepalive_expiry=70),
        )

    async def report(self, report: Report) -> Answer:
        body = report.model_dump_json(exclude_defaults=True)
        return await self._post("/node/report", body, Answer)

    async def desired(self, known: Desired | None) -> Desired | None:
        headers = {"if-none-match": known.etag} if known else {}
        with _translated():
            response = await self._client.get("/node/desired", headers=headers)
            if response.status_code == httpx.codes.NOT_MODIFIED:
                return None
            return _read(response, Desired)

    async def hints(self) -> AsyncIterator[Hint | None]:
        with _translated():
            timeout = httpx.Timeout(TIMEOUT.connect, read=SILENCE_S)
            async with aconnect_sse(self._client, "GET", "/node/hints", timeout=timeout) as source:
                if source.response.is_error:
                    await source.response.aread()
                    _checked(source.response)
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
        with _translated():
            _checked(await self._client.post("/node/leave"))

    async def telemetry(self, batch: bytes) -> Received:
        return await self._post("/node/telemetry", batch, Received, {"content-encoding": "zstd"})

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(
        self, path: str, body: str | bytes, kind: type[M], more: Mapping[str, str] = MappingProxyType({})
    ) -> M:
        with _translated():
            headers = {"content-type": "application/json", **more}
            response = await self._client.post(path, content=body, headers=headers)
            return _read(response, kind)


async def fetch_ca(url: str) -> bytes:
    """The CA's certificate (PEM) as the server says, unverified: compare its fingerprint. LinkError."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    async with httpx.AsyncClient(verify=unverified, timeout=TIMEOUT) as client:
        with _translated():
            response = await client.get(f"{url}{API}/ca")
            return _checked(response).content[:MOST_BYTES]


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
    except (httpx.HTTPError, SSEError, ssl.SSLError, ValueError) as error:
        raise LinkError(f"the controller's answer cannot be read: {error}") from error


def _read(response: httpx.Response, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(_checked(response).content)
    except ValidationError as error:
        raise LinkError(f"the controller's answer cannot be read: {error}") from error


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    error: Any = None
    with contextlib.suppress(ValueError):
        error = response.json()
    error = error.get("error") if isinstance(error, dict) else None
    if isinstance(error, dict) and response.status_code < 500 and response.status_code not in (408, 429):
        code = "too_large" if response.status_code == 413 else str(error.get("code"))
        raise Rejected(code, str(error.get("message"))[:1000])
    raise LinkError(f"the controller answered {response.status_code}")
