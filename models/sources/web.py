"""HTTP as all network sources use it: one client, one translation of what goes wrong."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from models.errors import AccessDenied, BadSource, ModelError, NotThere, PullError, Unreachable

TIMEOUT = httpx.Timeout(60, connect=15)  # seconds; 60 without a byte is a dead connection
TRIES_AT_FIRST = 3  # before anything came: a wrong address is told soon
TRIES_LATER = 8  # in a row without a byte more: a broken line gets about a minute
_LONGEST_PAUSE = 15.0  # seconds


class TryAgain(Exception):
    """The server asked for another try, after `pause` seconds if it said so."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


TEMPORARY = (httpx.TransportError, TryAgain)


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Follows redirects; takes proxies, SSL_CERT_FILE and SSL_CERT_DIR from the environment."""
    async with httpx.AsyncClient(
        follow_redirects=True,
        timeout=TIMEOUT,
        headers={"User-Agent": "open-autoglm-edge"},
        event_hooks={"request": [_check_port]},
    ) as made:
        try:
            yield made
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise BadSource(f"not an address that can be fetched: {error}") from error
        except httpx.HTTPError as error:
            raise unreachable("the source", error) from error


async def _check_port(request: httpx.Request) -> None:
    if (request.url.port or 1) > 65535:  # httpx lets it through, also in redirects
        raise httpx.InvalidURL(f"there is no port {request.url.port}")


def check(url: str) -> None:
    """BadSource for what is no URL at all."""
    try:
        known = httpx.URL(url).host and urlsplit(url).hostname
    except (httpx.InvalidURL, ValueError) as error:
        raise BadSource(f"not a URL: {error}") from error
    if not known:
        raise BadSource("the URL names no host")


async def pause(failures: int, error: Exception, had_some: bool, shown: str) -> None:
    """Wait before try number `failures` + 1, or give up by Unreachable."""
    hopeless = isinstance(error, httpx.UnsupportedProtocol) or _is_about_certificates(error)
    if hopeless or failures >= (TRIES_LATER if had_some else TRIES_AT_FIRST):
        raise unreachable(shown, error) from error
    asked = error.pause if isinstance(error, TryAgain) else 0.0
    backoff = min(_LONGEST_PAUSE, 0.5 * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)  # noqa: S311
    await asyncio.sleep(max(backoff, min(asked, 4 * _LONGEST_PAUSE)))


async def get(
    made: httpx.AsyncClient, url: str, headers: Mapping[str, str], limit: int, shown: str
) -> tuple[bytes, str | None]:
    """A small body, of at most `limit` bytes, and the address of the next page if it has one."""
    failures = 0
    while True:
        try:
            async with made.stream("GET", url, headers=headers) as response:
                judge(response, shown)
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise PullError(f"{shown}: the answer is longer than {limit} bytes")
                link = response.links.get("next", {}).get("url")
                return bytes(body), str(response.url.join(link)) if link else None
        except TEMPORARY as error:
            failures += 1
            await pause(failures, error, False, shown)


def unreachable(shown: str, error: Exception) -> ModelError:
    if isinstance(error, httpx.UnsupportedProtocol):
        return BadSource(f"{shown}: {error}")
    hint = "; a custom CA goes into SSL_CERT_FILE" if _is_about_certificates(error) else ""
    return Unreachable(f"{shown} cannot be reached: {error or type(error).__name__}{hint}")


def judge(response: httpx.Response, shown: str) -> None:
    """Raise what a status other than success means. NotThere, AccessDenied, TryAgain, PullError."""
    status = response.status_code
    said = response.headers.get("x-error-message", "")  # the hub's
    because = f" ({_plain(said)})" if said else ""
    if status in (401, 403):
        raise AccessDenied(
            f"{shown} refuses access ({status}){because}: if it is private or gated, accept its terms on "
            "its page and set HF_TOKEN"
        )
    if status in (404, 410):
        raise NotThere(f"{shown} is not there ({status}){because}")
    if status in (408, 425, 429) or status >= 500:
        raise TryAgain(f"the server answered {status}{because}", _retry_after(response))
    if not response.is_success:
        raise PullError(f"{shown}: the server answered {status}{because}")


def same_origin(one: str, other: str) -> bool:
    """Whether a secret for one address may go to the other."""
    return httpx.URL(one).copy_with(raw_path=b"/", fragment=None) == httpx.URL(other).copy_with(
        raw_path=b"/", fragment=None
    )


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else 0.0


def _is_about_certificates(error: Exception) -> bool:
    return isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error)


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:300]
