"""Callers by JWT: what the claims of an issuer's tokens mean here; metrics of a bounded number of them."""

from __future__ import annotations

import time
from urllib.parse import quote

from agent.access import Caller
from agent.config_access import JwtSettings
from agent.errors import Forbidden, InvalidToken
from agent.telemetry import Telemetry
from cloud_sync.issuer import BadToken, Issuer, claim, names

KNOWN = 1024  # tokens whose callers are remembered, which saves a signature's check
KNOWN_S = 60.0
LONGEST = 256  # characters of a user's or tenant's name
USERS, TENANTS = 200, 50  # that have metrics of their own; the rest are "other"


class JwtAccess:
    """`run` keeps the issuer's keys fresh."""

    def __init__(self, settings: JwtSettings, issuer: Issuer, telemetry: Telemetry) -> None:
        self._settings, self._issuer = settings, issuer
        self._requests = telemetry.jwt_requests
        self._users: set[tuple[str, str]] = set()
        self._tenants: set[str] = set()
        self._known: dict[str, tuple[float, float, Caller]] = {}  # until when, monotonic and by the token

    async def run(self) -> None:
        await self._issuer.run()

    async def caller(self, token: str) -> Caller:
        """Raises InvalidToken; Forbidden: it lacks the role that callers must have."""
        until, ends, caller = self._known.get(token) or (0.0, 0.0, None)
        if caller is None or time.monotonic() > until or time.time() > ends:
            caller = await self._read(token)
        self._count(caller)
        return caller

    async def _read(self, token: str) -> Caller:
        try:
            claims = await self._issuer.claims(token)
        except BadToken as error:
            raise InvalidToken(error.message) from None
        said = self._settings
        user, tenant = claim(claims, said.jwt_user_claim), claim(claims, said.jwt_tenant_claim)
        if not isinstance(user, str | int) or not str(user):
            raise InvalidToken(f"The token does not say whom it speaks for ({said.jwt_user_claim}).")
        tenant = str(tenant) if isinstance(tenant, str | int) else ""
        if max(len(str(user)), len(tenant)) > LONGEST:
            raise InvalidToken("The token's names are too long.")
        roles = names(claim(claims, said.jwt_role_claim))
        admin = said.jwt_admin_role in roles
        if said.jwt_role is not None and said.jwt_role not in roles and not admin:
            raise Forbidden(f"The token lacks the role '{said.jwt_role}'.")
        caller = Caller(sender=sender(str(user), tenant), admin=admin, user=str(user), tenant=tenant)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[token] = (time.monotonic() + KNOWN_S, float(claims["exp"]), caller)
        return caller

    def _count(self, caller: Caller) -> None:
        """By names, as long as there are few: a metric's labels are kept for ever."""
        tenant, user = caller.tenant, caller.user
        if tenant not in self._tenants and len(self._tenants) < TENANTS:
            self._tenants.add(tenant)
        if (tenant, user) not in self._users and len(self._users) < USERS:
            self._users.add((tenant, user))
        tenant = tenant if tenant in self._tenants else "other"
        user = user if (caller.tenant, user) in self._users else "other"
        self._requests.labels(tenant=tenant, user=user).inc()


def sender(user: str, tenant: str) -> str:
    """What limits know a JWT's caller by: `jwt:TENANT/USER`, with escapes as in URLs."""
    return f"jwt:{quote(tenant, safe='')}/{quote(user, safe='')}"
