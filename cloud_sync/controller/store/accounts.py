"""Who may operate the fleet: accounts, their logins, and what went wrong at the door lately."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from cloud_sync.controller.store.tables import Table


class Account(Table):
    """A user, an OAuth client, or somebody of the OpenID Connect issuer who is kept out."""

    __tablename__ = "accounts"

    subject: Mapped[str] = mapped_column(primary_key=True)
    """`user:NAME`, `client:NAME` or `oidc:SUBJECT`: what tokens and the audit log say."""
    role: Mapped[str]
    secret: Mapped[str]
    """Of a user Argon2's digest of the password; of a client, whose secret is random, SHA-256's."""
    version: Mapped[int] = mapped_column(default=1)
    """Tokens say it; it grows, and former tokens count no longer."""
    disabled_at: Mapped[float | None] = mapped_column(default=None)
    made_at: Mapped[float]
    seen_at: Mapped[float | None] = mapped_column(default=None)
    """The last login."""


class RefreshToken(Table):
    """Good for one use, which makes the next of its family; a second use is the end of the family."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("refresh_tokens_family", "family"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    family: Mapped[str]
    account: Mapped[str] = mapped_column(ForeignKey("accounts.subject"))
    version: Mapped[int]
    """The account's, when it logged in."""
    digest: Mapped[str]
    expires_at: Mapped[float]
    used_at: Mapped[float | None] = mapped_column(default=None)


class Attempt(Table):
    """Logins that failed, or have not ended, in a row."""

    __tablename__ = "login_attempts"

    whose: Mapped[str] = mapped_column(primary_key=True)
    """`account SUBJECT` or `address ADDRESS`."""
    failures: Mapped[int]
    last_at: Mapped[float]
