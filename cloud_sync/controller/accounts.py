"""Users and OAuth clients: made, changed, and asked for at each request, so that a change counts at once."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.errors import Conflict, NotFound, Unauthorised
from cloud_sync.controller.passwords import Passwords
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.accounts import Account
from cloud_sync.controller.tokens import Role

USER, CLIENT, OIDC = "user:", "client:", "oidc:"
"""What a subject begins with."""


class AccountRow(BaseModel):
    name: str
    """Of a user of the OpenID Connect issuer `oidc:SUBJECT`."""
    role: Role
    disabled: bool
    made_at: float
    seen_at: float | None
    """Wall time of the last login, in seconds."""


class Accounts:
    def __init__(self, store: Store, passwords: Passwords) -> None:
        self._store, self._passwords = store, passwords

    async def all(self, kind: str) -> list[AccountRow]:
        """Of one kind, by name; those of the OpenID Connect issuer who are kept out are among the users."""
        async with self._store.read() as session:
            rows = (await session.scalars(select(Account).order_by(Account.subject))).all()
        kinds = (USER, OIDC) if kind == USER else (kind,)
        return [_row(row) for row in rows if row.subject.startswith(kinds)]

    async def add_user(self, actor: Actor, name: str, role: Role, password: str) -> None:
        """Conflict; TooMany."""
        await self._add(actor, USER + name, role, await self._passwords.digest(password))

    async def add_client(self, actor: Actor, name: str, role: Role) -> str:
        """Its secret, which is not kept. Conflict."""
        secret = secrets.token_urlsafe(32)
        await self._add(actor, CLIENT + name, role, digest(secret))
        return secret

    async def change(
        self, actor: Actor, subject: str, role: Role | None, disabled: bool | None, password: str | None
    ) -> None:
        """None: as it was. Who is disabled or has a new password is logged out. NotFound; TooMany."""
        secret = await self._passwords.digest(password) if password is not None else None
        async with self._store.write() as session:
            now = self._store.now()
            account = await self._for_change(session, subject, now)
            if role is not None:
                account.role = role
            if disabled is not None:
                account.disabled_at = now if disabled else None
            if secret is not None:
                account.secret = secret
            if disabled or secret is not None:
                account.version += 1
            changes: dict[str, Any] = {"role": role, "disabled": disabled, "password": secret and "changed"}
            told = {name: value for name, value in changes.items() if value is not None}
            record(session, now, actor, "account.changed", subject, **told)

    async def standing(self, subject: str, version: object) -> Role:
        """The role of who has a token of this account. Unauthorised: it counts no longer."""
        async with self._store.read() as session:
            account = await session.get(Account, subject)
        if account is None or account.disabled_at is not None or account.version != version:
            raise Unauthorised("token_revoked", "this login counts no longer: log in again")
        return _row(account).role

    async def is_kept_out(self, subject: str) -> bool:
        """Whether somebody of the OpenID Connect issuer was disabled here."""
        async with self._store.read() as session:
            account = await session.get(Account, subject)
        return account is not None and account.disabled_at is not None

    async def _add(self, actor: Actor, subject: str, role: Role, secret: str) -> None:
        async with self._store.write() as session:
            if await session.get(Account, subject):
                raise Conflict("name_taken", f"there is a {subject.replace(':', ' ', 1)!r} already")
            now = self._store.now()
            session.add(Account(subject=subject, role=role, secret=secret, made_at=now))
            record(session, now, actor, "account.made", subject, role=role)

    async def _for_change(self, session: AsyncSession, subject: str, now: float) -> Account:
        if account := await session.get(Account, subject, with_for_update=True):
            return account
        if not subject.startswith(OIDC):
            raise NotFound("no_such_account", f"there is no {subject.replace(':', ' ', 1)!r}")
        account = Account(subject=subject, role="viewer", secret="", made_at=now)
        session.add(account)
        await session.flush()
        return account


def digest(secret: str) -> str:
    """Of a secret with 256 random bits: a plain hash does."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _row(account: Account) -> AccountRow:
    return AccountRow.model_validate(
        {
            "name": account.subject.removeprefix(USER).removeprefix(CLIENT),
            "role": account.role,
            "disabled": account.disabled_at is not None,
            "made_at": account.made_at,
            "seen_at": account.seen_at,
        }
    )
