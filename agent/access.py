"""Who calls: API keys, and what each of them may do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from agent.config_access import ApiKey
from agent.errors import Forbidden, Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """`sender` is what serving limits and shares by; `models` None: all."""

    sender: str
    models: frozenset[str] | None = None
    admin: bool = False
    user: str = ""  # as a JWT says, and the tenant
    tenant: str = ""

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def needs_model(self, model: str) -> None:
        if not self.may_use(model):
            raise Forbidden(f"This API key may not use the model '{model}'.", param="model")

    def needs_admin(self) -> None:
        if not self.admin:
            raise Forbidden(
                "This is for administrators: use the agent's unix socket, an API key with admin = true,"
                " or a token with the administrators' role."
            )


LOCAL = Caller(sender="local", admin=True)
"""Whoever can open the agent's unix socket: its file mode has let in only the agent's own user and root."""
ANONYMOUS = Caller(sender="http:anonymous")


class Tokens(Protocol):
    """JWTs of an issuer: agent/jwt_access.py."""

    async def run(self) -> None:
        """Keep its keys, until cancelled."""

    async def caller(self, token: str) -> Caller:
        """Raises Unauthorized and Forbidden."""


class Access:
    """The API keys of a node, of which only digests are held, and JWTs, if there is an issuer of them."""

    def __init__(self, keys: Iterable[ApiKey], tokens: Tokens | None = None) -> None:
        self._tokens = tokens
        self._callers = [
            (
                _digest(key),
                Caller(
                    sender=f"http:{key.name}",
                    models=None if key.models is None else frozenset(key.models),
                    admin=key.admin,
                ),
            )
            for key in keys
        ]

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for."""
        return not self._callers and self._tokens is None

    async def run(self) -> None:
        """Until cancelled."""
        if self._tokens is not None:
            await self._tokens.run()

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent this `Authorization` header. Raises Unauthorized; Forbidden: a token lacks the role."""
        if self.is_open:
            return ANONYMOUS
        if authorization is None:
            raise Unauthorized("An API key or a token is needed: send 'Authorization: Bearer <key>'.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("The Authorization header must be 'Bearer <key>'.")
        if found := self._by_key(key.strip()):
            return found
        if self._tokens is not None and key.count(".") == 2:
            return await self._tokens.caller(key.strip())
        raise Unauthorized("The API key is not known to this node.")

    def _by_key(self, key: str) -> Caller | None:
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, caller in self._callers:  # all of them, so that time does not tell which one was near
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def _digest(key: ApiKey) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    if key.key is None:
        raise ValueError(f"API key '{key.name}': set 'sha256' or 'key'")
    return hashlib.sha256(key.key.get_secret_value().encode()).digest()
