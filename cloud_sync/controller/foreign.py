"""Operators whom an OpenID Connect issuer knows: its tokens count here, by the roles that they say."""

from __future__ import annotations

import hashlib

from cloud_sync.controller import tokens
from cloud_sync.controller.accounts import OIDC, Accounts
from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Unauthorised
from cloud_sync.controller.store import Store
from cloud_sync.issuer import BadToken, Issuer, claim, issuer_of, names

LONGEST = 255  # characters of a subject
SEEN = 4096  # tokens that are remembered as written down


class Foreign:
    """`run` keeps the issuer's keys fresh."""

    def __init__(self, settings: ControllerSettings, store: Store, accounts: Accounts) -> None:
        self._settings, self._store, self._accounts = settings, store, accounts
        self._issuer = Issuer(
            settings.oidc_issuer,
            settings.oidc_audience,
            cache=settings.data_dir / "oidc-keys.json",
            ca=settings.oidc_ca_file,
        )
        self._seen: set[bytes] = set()

    async def run(self) -> None:
        await self._issuer.run()

    def issued(self, token: str) -> bool:
        """Whether a token says that it is the issuer's."""
        return issuer_of(token) == self._issuer.url

    async def who(self, token: str, address: str) -> tuple[str, tokens.Role | None]:
        """The subject, and its role. Unauthorised."""
        try:
            claims = await self._issuer.claims(token)
        except BadToken as error:
            raise Unauthorised(error.code, error.message) from None
        said = claims.get("sub")
        if not isinstance(said, str) or not said.isprintable() or not 0 < len(said) <= LONGEST:
            raise Unauthorised("invalid_token", "The token does not say whom it speaks for.")
        subject = f"{OIDC}{said}"
        if await self._accounts.is_kept_out(subject):
            raise Unauthorised("token_revoked", f"{subject} was disabled here")
        await self._write_down(token, subject, address)
        roles = names(claim(claims, self._settings.oidc_role_claim))
        known = self._settings.oidc_roles
        return subject, tokens.role([known.get(one) for one in roles] if known else roles)

    async def _write_down(self, token: str, subject: str, address: str) -> None:
        """The login was elsewhere: here a token is seen the first time."""
        digest = hashlib.sha256(token.encode()).digest()
        if digest in self._seen:
            return
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen.add(digest)
        async with self._store.write() as session:
            record(session, self._store.now(), Actor(subject, address), "login", subject)
