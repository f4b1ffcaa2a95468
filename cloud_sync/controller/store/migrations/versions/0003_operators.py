"""Accounts of operators, their logins, and failed attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("version", _int, nullable=False),
        sa.Column("disabled_at", sa.Double),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double),
        sa.PrimaryKeyConstraint("subject", name="accounts_pkey"),
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("version", _int, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="refresh_tokens_pkey"),
        sa.ForeignKeyConstraint(["account"], ["accounts.subject"], name="refresh_tokens_account_fkey"),
    )
    op.create_index("refresh_tokens_family", "refresh_tokens", ["family"])
    op.create_table(
        "login_attempts",
        sa.Column("whose", sa.Text, nullable=False),
        sa.Column("failures", _int, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("whose", name="login_attempts_pkey"),
    )
