"""What nodes tell of themselves, events of the fleet, and which nodes are behind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("backlog", _int, nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("clock_skew_s", sa.Double))
    op.create_table(
        "fleet_events",
        sa.Column("id", _int, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("told_at", sa.Double),
        sa.Column("node", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", _json, nullable=False),
        sa.PrimaryKeyConstraint("id", name="fleet_events_pkey"),
        sqlite_autoincrement=True,  # an id is never given again
    )
    op.create_index("fleet_events_node_id", "fleet_events", ["node", "id"])
    op.create_index("fleet_events_received_at", "fleet_events", ["received_at"])
    op.create_table(
        "nodes_behind",
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("alarmed_at", sa.Double),
        sa.PrimaryKeyConstraint("node", "what", name="nodes_behind_pkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="nodes_behind_node_fkey"),
    )
    op.create_table(
        "telemetry_marks",
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("database", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("seq", _int, nullable=False),
        sa.Column("ahead", _int, nullable=False),
        sa.PrimaryKeyConstraint("node", "database", "stream", name="telemetry_marks_pkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="telemetry_marks_node_fkey"),
    )
    op.create_table(
        "telemetry_excerpts",
        sa.Column("id", _int, autoincrement=True, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("told_at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", _json, nullable=False),
        sa.PrimaryKeyConstraint("id", name="telemetry_excerpts_pkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="telemetry_excerpts_node_fkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("telemetry_excerpts_stream_node_id", "telemetry_excerpts", ["stream", "node", "id"])
    op.create_index("telemetry_excerpts_stream_received_at", "telemetry_excerpts", ["stream", "received_at"])
    op.create_table(
        "series",
        sa.Column("id", _int, autoincrement=True, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="series_pkey"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="series_node_fkey"),
        sa.UniqueConstraint("node", "name", name="series_node_name_key"),
    )
    op.create_index("series_metric", "series", ["metric"])
    for name in ("points", "hours"):
        _points(name)


def _points(name: str) -> None:
    op.create_table(
        name,
        sa.Column("series", _int, nullable=False),
        sa.Column("at", _int, nullable=False),
        sa.Column("period_s", _int, nullable=False),
        sa.Column("count", _int, nullable=False),
        *(sa.Column(one, sa.Double, nullable=False) for one in ("sum", "min", "max", "last")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index(f"{name}_series_at", name, ["series", "at"])
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(f"{name}_at", name, ["at"])
