"""What the fleet tells of itself, and what the controller notes of it. Times as in `tables`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy import Table as Plain
from sqlalchemy.orm import Mapped, mapped_column

from cloud_sync.controller.store.tables import Int, Table


class FleetEvent(Table):
    """What happened, as the controller saw it or as a node told it.

    Ids grow in the order of commits (see `events`): whoever has read up to one has missed none before it.
    """

    __tablename__ = "fleet_events"
    __table_args__ = (
        Index("fleet_events_node_id", "node", "id"),
        Index("fleet_events_received_at", "received_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    """When it happened, by the controller's clock as far as that can be told."""
    received_at: Mapped[float]
    told_at: Mapped[float | None] = mapped_column(default=None)
    """By the node's clock; none: the controller saw it itself."""
    node: Mapped[str | None] = mapped_column(default=None)
    """The name that the node had then."""
    kind: Mapped[str]
    body: Mapped[dict[str, Any]]


class Mark(Table):
    """How far a stream of a node's telemetry is here, with nothing left out before it."""

    __tablename__ = "telemetry_marks"

    node: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    database: Mapped[str] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(default=0)
    ahead: Mapped[int] = mapped_column(default=0)
    """Where a batch began that left something out, the last time; 0: it did not."""


class Excerpt(Table):
    """A line of a node's log, or a sample of its prompts."""

    __tablename__ = "telemetry_excerpts"
    __table_args__ = (
        Index("telemetry_excerpts_stream_node_id", "stream", "node", "id"),
        Index("telemetry_excerpts_stream_received_at", "stream", "received_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    stream: Mapped[str]
    node: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    at: Mapped[float]
    """This and the two below: as an event's."""
    received_at: Mapped[float]
    told_at: Mapped[float]
    kind: Mapped[str]
    body: Mapped[dict[str, Any]]


class Series(Table):
    """One measure of one node; its points have this id."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("node", "name", name="series_node_name_key"),
        Index("series_metric", "metric"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    node: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    name: Mapped[str]
    """As Prometheus writes it, with its labels."""
    metric: Mapped[str]
    """The name without labels."""
    seen_at: Mapped[float]
    """When points came last, to a day."""


class Behind(Table):
    """A node that has not what it should have yet."""

    __tablename__ = "nodes_behind"

    node: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    """generation, telemetry."""
    since: Mapped[float]
    alarmed_at: Mapped[float | None] = mapped_column(default=None)


def _points(name: str) -> Plain:
    """Aggregates of a series over `period_s` seconds, from `at` on. By days on PostgreSQL.

    No key but the time: a batch is taken once, and two points at one time are two measurements.
    """
    made = Plain(
        name,
        Table.metadata,
        Column("series", Int, nullable=False),
        Column("at", Int, nullable=False),
        Column("period_s", Int, nullable=False),
        Column("count", Int, nullable=False),
        *(Column(one, Double, nullable=False) for one in ("sum", "min", "max", "last")),
        postgresql_partition_by="RANGE (at)",
    )
    Index(f"{name}_series_at", made.c.series, made.c.at)
    Index(f"{name}_at", made.c.at).ddl_if("sqlite")  # which has no partitions to drop
    return made


POINTS = _points("points")
HOURS = _points("hours")
"""Points that grew old, and those that came that old."""
