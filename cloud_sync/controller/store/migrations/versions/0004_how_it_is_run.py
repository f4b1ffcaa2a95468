"""Answers to changes that are asked for again; when a node is lost; who is told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("status", _int),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="answers_pkey"),
    )
    op.add_column("fleet", sa.Column("watched_at", sa.Double))
    op.add_column("nodes", sa.Column("due_at", sa.Double))
    op.add_column("nodes", sa.Column("stream", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "hooks",
        *(sa.Column(one, sa.Text, nullable=False) for one in ("id", "url", "secret", "kinds", "made_by")),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("sent", _int, nullable=False),
        sa.Column("failures", _int, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="hooks_pkey"),
    )
