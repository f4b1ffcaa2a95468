"""Logins by OAuth 2.0's grants (RFC 6749): who is proven gets a short token, and perhaps one to renew it.

What is refused has OAuth's own codes: invalid_grant, invalid_client, invalid_scope, invalid_target.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller import attempts, tokens
from cloud_sync.controller.accounts import CLIENT, USER, digest
from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Refused, Unauthorised
from cloud_sync.controller.passwords import Passwords
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.accounts import Account, RefreshToken
from cloud_sync.controller.tokens import Role

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
ID = re.compile(r"[0-9a-f]{24}")  # of a refresh token


@dataclass(frozen=True, slots=True)
class Asked:
    """What a token is to be for."""

    scope: str = ""
    """A role, no higher than the account's; "": the account's."""
    audience: str = ""

    def check(self) -> None:
        """Refused: nobody can have such a token."""
        if self.scope and self.scope not in tokens.RANK:
            raise Refused("invalid_scope", f"a scope is one of {', '.join(tokens.RANK)}")
        if self.audience not in ("", tokens.AUDIENCE, tokens.AGENTS):
            raise Refused("invalid_target", f"an audience is {tokens.AUDIENCE} or {tokens.AGENTS}")


@dataclass(frozen=True, slots=True)
class Granted:
    access_token: str
    expires_in: float
    scope: Role
    refresh_token: str | None


class Logins:
    def __init__(
        self, store: Store, passwords: Passwords, signing: bytes, settings: ControllerSettings
    ) -> None:
        self._store, self._passwords = store, passwords
        self._signing, self._settings = signing, settings

    async def by_password(self, name: str, password: str, address: str, asked: Asked) -> Granted:
        """Refused."""
        asked.check()
        account, refresh = await self._login(USER, name, password, address)
        return self._grant(account, refresh, asked)

    async def by_secret(self, client: str, secret: str, address: str, asked: Asked) -> Granted:
        """Refused."""
        asked.check()
        account, _ = await self._login(CLIENT, client, secret, address)
        return self._grant(account, None, asked)

    async def by_refresh(self, token: str, address: str, asked: Asked) -> Granted:
        """Refused. A token that was used already ends all that came of its login."""
        asked.check()
        id, secret = _parts(token)
        fresh = ""
        async with self._store.write() as session:
            now = self._store.now()
            row = await session.get(RefreshToken, id, with_for_update=True)
            known = row is not None and secrets.compare_digest(row.digest, digest(secret))
            account = await session.get(Account, row.account) if row is not None and known else None
            if row is None or account is None:
                pass
            elif row.used_at is not None:
                await session.execute(delete(RefreshToken).where(RefreshToken.family == row.family))
                record(session, now, Actor(row.account, address), "login.reused", row.account)
            elif _is_good(row, account, now):
                _role(account, asked)  # before the token is used up
                row.used_at = now
                fresh = await self._refresh_token(session, account, row.family)
        if account is None or not fresh:  # and committed
            raise Unauthorised("invalid_grant", "this refresh token counts no longer: log in again")
        return self._grant(account, fresh, asked)

    async def revoke(self, token: str, address: str) -> None:
        """End all that came of the login that this refresh token is of; another token is nothing here."""
        id, secret = _parts(token)
        async with self._store.write() as session:
            row = await session.get(RefreshToken, id)
            if row is not None and secrets.compare_digest(row.digest, digest(secret)):
                await session.execute(delete(RefreshToken).where(RefreshToken.family == row.family))
                record(session, self._store.now(), Actor(row.account, address), "logout", row.account)

    async def prove(self, subject: str, secret: str, address: str) -> None:
        """That this is the account's password. Refused."""
        kind, _, name = subject.partition(":")
        await self._proven(f"{kind}:", name, secret, address)

    async def _login(self, kind: str, name: str, secret: str, address: str) -> tuple[Account, str]:
        """The account, and a refresh token."""
        version = await self._proven(kind, name, secret, address)
        async with self._store.write() as session:
            now = self._store.now()
            account = await session.get_one(Account, kind + name, with_for_update=True)
            if account.version != version:  # disabled, or another secret, since that was proven
                raise _wrong(kind)
            account.seen_at = now
            record(session, now, Actor(account.subject, address), "login", account.subject)
            if kind == CLIENT:  # it has its secret
                return account, ""
            return account, await self._refresh_token(session, account, secrets.token_hex(8))

    async def _proven(self, kind: str, name: str, secret: str, address: str) -> int:
        """The account's version. Refused."""
        if not NAME.fullmatch(name):
            raise _wrong(kind)
        subject = kind + name
        async with self._store.write() as session:
            await attempts.begin(session, self._store.now(), subject, address)
            account = await session.get(Account, subject)
        kept = account.secret if account else None
        if kind == CLIENT:
            right = secrets.compare_digest(kept or "", digest(secret))
        else:
            right = await self._passwords.matches(kept, secret)
        async with self._store.write() as session:
            if account is not None and account.disabled_at is None and right:
                await attempts.succeeded(session, subject, address)
            else:
                record(session, self._store.now(), Actor("nobody", address), "login.failed", subject)
                account = None
        if account is None:  # and committed
            raise _wrong(kind)
        return account.version

    async def _refresh_token(self, session: AsyncSession, account: Account, family: str) -> str:
        now, id, secret = self._store.now(), secrets.token_hex(12), secrets.token_urlsafe(32)
        await session.execute(delete(RefreshToken).where(RefreshToken.expires_at < now))
        row = RefreshToken(
            id=id,
            family=family,
            account=account.subject,
            version=account.version,
            digest=digest(secret),
            expires_at=now + self._settings.login_life_s,
        )
        session.add(row)
        return f"{id}.{secret}"

    def _grant(self, account: Account, refresh: str | None, asked: Asked) -> Granted:
        role = _role(account, asked)
        life, now = self._settings.access_life_s, self._store.now()
        token = tokens.sign(
            self._signing,
            account.subject,
            role,
            now,
            life,
            audience=asked.audience or tokens.AUDIENCE,
            issuer=self._settings.issuer,
            ver=account.version,
        )
        return Granted(token, life, role, refresh)


def _role(account: Account, asked: Asked) -> Role:
    """Refused: it is above the account's."""
    role, wanted = tokens.role([account.role]), tokens.role([asked.scope])
    if role is None or (wanted and tokens.lower(role, wanted) != wanted):
        raise Refused("invalid_scope", f"this account has the role {role}")
    return wanted or role


def _parts(token: str) -> tuple[str, str]:
    """Of a refresh token its id, "" where it can be none, and its secret."""
    id, _, secret = token.partition(".")
    return (id if ID.fullmatch(id) else ""), secret


def _wrong(kind: str) -> Unauthorised:
    code = "invalid_client" if kind == CLIENT else "invalid_grant"
    return Unauthorised(code, "the name or its secret is wrong, or the account is disabled")


def _is_good(row: RefreshToken, account: Account, now: float) -> bool:
    return now <= row.expires_at and account.disabled_at is None and account.version == row.version
