"""Nodes, their certificates and documents, join tokens, the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

KEPT = "the audit log is only added to"
_json = sa.JSON().with_variant(JSONB(), "postgresql")
_int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "fleet",
        sa.Column("one", _int, nullable=False),
        sa.Column("epoch", _int, nullable=False),
        sa.Column("revision", _int, nullable=False),
        sa.PrimaryKeyConstraint("one", name="fleet_pkey"),
    )
    op.execute("INSERT INTO fleet VALUES (1, 1, 0)")
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("labels", _json, nullable=False),
        sa.Column("joined_at", sa.Double, nullable=False),
        sa.Column("generation", _int, nullable=False),
        sa.Column("desired", _json, nullable=False),
        sa.Column("revision", _int, nullable=False),
        sa.Column("seen_at", sa.Double),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("former_boot", sa.Text, nullable=False),
        sa.Column("number", _int, nullable=False),
        sa.Column("former_number", _int, nullable=False),
        sa.Column("observed_generation", _int, nullable=False),
        sa.Column("reported", _json, nullable=False),
        sa.PrimaryKeyConstraint("id", name="nodes_pkey"),
        sa.UniqueConstraint("name", name="nodes_name_key"),
    )
    op.create_index("nodes_revision", "nodes", ["revision"])
    op.create_table(
        "certificates",
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("not_after", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("serial", name="certificates_pkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="certificates_node_fkey"),
    )
    op.create_index("certificates_node", "certificates", ["node"])
    op.create_table(
        "join_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("labels", _json, nullable=False),
        sa.Column("replaces", sa.Text),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sa.Column("used_by", sa.Text),
        sa.Column("node", sa.Text),
        sa.PrimaryKeyConstraint("id", name="join_tokens_pkey"),
        sa.ForeignKeyConstraint(["replaces"], ["nodes.id"], name="join_tokens_replaces_fkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="join_tokens_node_fkey"),
    )
    op.create_table(
        "layers",
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("settings", _json, nullable=False),
        sa.PrimaryKeyConstraint("selector", name="layers_pkey"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _int, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("details", _json, nullable=False),
        sa.PrimaryKeyConstraint("id", name="audit_pkey"),
    )
    for what in ("UPDATE", "DELETE"):
        _refuse_on_audit(what)


def _refuse_on_audit(what: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER audit_{what.lower()} BEFORE {what} ON audit"
            f" BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{KEPT}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER audit_{what.lower()} BEFORE {what} ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept()"
    )
