"""Who calls: API keys, and what each of them may do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from agent.config import ApiKey
from agent.errors import Forbidden, Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """`sender` is what serving limits and shares by; `models` None: all."""

    sender: str
    models: frozenset[str] | None = None
    admin: bool = False

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def needs_model(self, model: str) -> None:
        if not self.may_use(model):
            raise Forbidden(f"This API key may not use the model '{model}'.", param="model")

    def needs_admin(self) -> None:
        if not self.admin:
            raise Forbidden(
                "This is for administrators: use the agent's unix socket, or an API key with admin = true."
            )


LOCAL = Caller(sender="local", admin=True)
"""Whoever can open the agent's unix socket: its file mode has let in only the agent's own user and root."""
ANONYMOUS = Caller(sender="http:anonymous")


class Access:
    """The API keys of a node. Only digests are held."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
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

    def caller(self, authorization: str | None) -> Caller:
        """Who sent this `Authorization` header. Raises Unauthorized."""
        if not self._callers:
            return ANONYMOUS
        if authorization is None:
            raise Unauthorized("An API key is needed: send 'Authorization: Bearer <key>'.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("The Authorization header must be 'Bearer <key>'.")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, caller in self._callers:  # all of them, so that time does not tell which one was near
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise Unauthorized("The API key is not known to this node.")
        return found


def _digest(key: ApiKey) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    if key.key is None:
        raise ValueError(f"API key '{key.name}': set 'sha256' or 'key'")
    return hashlib.sha256(key.key.get_secret_value().encode()).digest()
