"""A token issuer by URL (OpenID Connect, or OAuth 2.0 with metadata): for whom a JWT of its speaks.

Its keys are found by discovery and kept, in a file too: while the issuer is away, and at a start without the
network, those go on. For a key that is not known it is asked, but seldom.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from models.disk import write_private

ALGORITHMS = (
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
)  # fmt: skip
"""Those of public keys alone: who can verify a token by one of them cannot make one."""
KEEP_S = 3600.0  # keys are asked for again after so long
RETRY_S = 30.0  # the same while the issuer is away
SELDOM_S = 3.0  # between two questions, however many unknown keys are named
WAIT_S = 5.0  # how long a token whose key is not known waits for the answer
LEEWAY_S = 30.0
MOST_TOKEN = 16 * 1024  # characters
WELL_KNOWN = ("openid-configuration", "oauth-authorization-server")

log = structlog.get_logger()


class BadToken(Exception):
    """Fit for the caller; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Issuer:
    """`cache`: the file that keeps the keys. `ca`: who is trusted instead of the system's store, PEM."""

    def __init__(
        self, url: str, audience: str, *, cache: Path, jwks_url: str | None = None, ca: Path | None = None
    ) -> None:
        self.url, self._audience = url, audience
        self._cache, self._jwks_url, self._ca = cache, jwks_url, ca
        self._keys: list[dict[str, Any]] = []
        self._asked, self._answered = asyncio.Event(), asyncio.Event()
        self._last = -SELDOM_S  # when it was asked, by the monotonic clock

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled."""
        await asyncio.to_thread(self._load)
        while True:
            self._last = time.monotonic()
            fine = await self._refresh()
            self._answered.set()
            self._answered = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_S if fine else RETRY_S):
                    await self._asked.wait()
            await asyncio.sleep(self._last + SELDOM_S - time.monotonic())
            self._asked.clear()

    async def claims(self, token: str) -> dict[str, Any]:
        """What a token of this issuer for this audience says, if it is valid now. BadToken."""
        header = _header(token)
        key = self._key(header)
        if key is None:
            await self._ask()
            key = self._key(header)
        if key is None:
            raise BadToken("invalid_token", "The token is signed by a key that its issuer does not have.")
        try:
            found: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self.url,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise BadToken("token_expired", "The token has expired.") from None
        except jwt.PyJWTError as error:
            raise BadToken("invalid_token", f"The token is not valid here: {error}.") from None
        return found

    def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK | None:
        kid, algorithm = header.get("kid"), header["alg"]
        fitting = [one for one in self._keys if one.get("kid") == kid]
        if kid is None and len(self._keys) == 1:
            fitting = self._keys
        for one in fitting:
            with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError, KeyError):  # it is no key
                return jwt.PyJWK(one, one.get("alg") or algorithm)
        return None

    async def _ask(self) -> None:
        """Have the keys fetched, and wait for them unless that was done just now."""
        self._asked.set()
        if self._keys and time.monotonic() - self._last < SELDOM_S:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._answered.wait()

    def _load(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._cache.read_bytes())
            if kept["issuer"] == self.url:
                self._keys = _usable(kept["jwks"])

    async def _refresh(self) -> bool:
        """Whether the issuer answered."""
        try:
            trust = await asyncio.to_thread(_trust, self._ca)
            async with httpx.AsyncClient(verify=trust, timeout=10) as client:
                where = self._jwks_url or await self._discover(client)
                jwks = (await client.get(where)).raise_for_status().json()
            keys = _usable(jwks)
            if not keys:
                raise ValueError("it has no keys that could be used")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("no keys from the issuer of tokens", issuer=self.url, reason=str(error))
            return False
        if keys != self._keys:
            self._keys = keys
            kept = json.dumps({"issuer": self.url, "jwks": {"keys": keys}}).encode()
            with contextlib.suppress(OSError):  # a full disk: they are in memory
                await asyncio.to_thread(write_private, self._cache, kept)
        return True

    async def _discover(self, client: httpx.AsyncClient) -> str:
        """Where its keys are."""
        for name in WELL_KNOWN:
            answer = await client.get(f"{self.url.rstrip('/')}/.well-known/{name}")
            if answer.status_code != httpx.codes.NOT_FOUND:
                break
        told = answer.raise_for_status().json()
        if told["issuer"] != self.url:
            raise ValueError(f"it calls itself {told['issuer']}")
        where = str(told["jwks_uri"])
        if not is_safe(where):
            raise ValueError(f"its keys are at {where}")
        return where


def issuer_of(token: str) -> str:
    """Whom a token names as its issuer, which proves nothing; "": nobody."""
    with contextlib.suppress(jwt.PyJWTError):
        if len(token) <= MOST_TOKEN:
            return str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
    return ""


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """`roles`, or `realm_access.roles` within an object; a name with dots in it is found too. None: no."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def names(value: Any) -> list[str]:
    """Of a claim that lists them, or has spaces between them."""
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def is_safe(url: str) -> bool:
    """Whether nobody on the way can change what it says: HTTPS, or a server on this machine."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def _header(token: str) -> Mapping[str, Any]:
    """BadToken."""
    if len(token) > MOST_TOKEN:
        raise BadToken("invalid_token", "The token is too long.")
    try:
        header: Mapping[str, Any] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise BadToken("invalid_token", "The token is no JWT.") from None
    if header.get("alg") not in ALGORITHMS:
        raise BadToken("invalid_token", "The token is signed in a way that is not accepted.")
    return header


def _usable(jwks: Any) -> list[dict[str, Any]]:
    """Those of public keys for signatures; what is no key is passed over. KeyError, TypeError."""
    keys = [one for one in jwks["keys"] if isinstance(one, dict)]
    return [one for one in keys if one.get("kty") != "oct" and one.get("use") in (None, "sig")]


def _trust(ca: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)
