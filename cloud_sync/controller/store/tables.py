"""What the controller keeps. Times are wall clock, in seconds; ids are random, in hexadecimal.

The migrations beside this file make it; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Json = JSON().with_variant(JSONB(), "postgresql")
Int = BigInteger().with_variant(Integer(), "sqlite")  # whose integers have 64 bits


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {str: Text, int: Int, dict[str, Any]: _Json, dict[str, str]: _Json}  # noqa: RUF012


class Fleet(Table):
    """One row: what all nodes and all copies of the controller share."""

    __tablename__ = "fleet"

    one: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(default=1)
    """Grows when the controller finds that it was restored from a backup."""
    revision: Mapped[int] = mapped_column(default=0)
    """Grows with each change of any node's Desired document."""
    watched_at: Mapped[float | None] = mapped_column(default=None)
    """When a controller was there to hear nodes, to some seconds."""


class Node(Table):
    __tablename__ = "nodes"
    __table_args__ = (Index("nodes_revision", "revision"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    """Of one that is gone: with ~ and its id behind it, so that the name is free."""
    state: Mapped[str] = mapped_column(default="active")
    """active, lost, cloned, revoked, gone."""
    labels: Mapped[dict[str, str]]
    joined_at: Mapped[float]

    # Desired
    generation: Mapped[int] = mapped_column(default=0)
    desired: Mapped[dict[str, Any]] = mapped_column(default=dict)
    revision: Mapped[int] = mapped_column(default=0)
    """The fleet's, when `desired` changed last."""

    # Reported
    seen_at: Mapped[float | None] = mapped_column(default=None)
    due_at: Mapped[float | None] = mapped_column(default=None)
    """When it is lost, if it was not heard before."""
    stream: Mapped[str] = mapped_column(default="")
    """Its newest stream of hints, which is open or was the last that was."""
    address: Mapped[str] = mapped_column(default="")
    boot: Mapped[str] = mapped_column(default="")
    former_boot: Mapped[str] = mapped_column(default="")
    number: Mapped[int] = mapped_column(default=0)
    former_number: Mapped[int] = mapped_column(default=0)
    observed_generation: Mapped[int] = mapped_column(default=0)
    backlog: Mapped[int] = mapped_column(default=0)
    """Rows of telemetry that wait on the node."""
    clock_skew_s: Mapped[float | None] = mapped_column(default=None)
    """How far the node's clock is ahead of the controller's."""
    reported: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Certificate(Table):
    """One that was issued to a node. Any of a node's that is not revoked is good until it is over."""

    __tablename__ = "certificates"

    serial: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    key: Mapped[str]
    """Digest of its public key."""
    not_after: Mapped[float]
    revoked_at: Mapped[float | None] = mapped_column(default=None)


class JoinToken(Table):
    __tablename__ = "join_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    made_by: Mapped[str]
    labels: Mapped[dict[str, str]]
    """Given to the node that joins with it."""
    replaces: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"), default=None)
    """The node that the machine is to become."""
    expires_at: Mapped[float]
    used_at: Mapped[float | None] = mapped_column(default=None)
    used_by: Mapped[str | None] = mapped_column(default=None)
    """Digest of the key that joined: it may ask again."""
    node: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"), default=None)


class Layer(Table):
    """Settings for all nodes that its selector meets."""

    __tablename__ = "layers"

    selector: Mapped[str] = mapped_column(primary_key=True)
    """Canonical: `all`, `key=value,...` in the order of the keys, or `node:NAME`."""
    settings: Mapped[dict[str, Any]]


class Audit(Table):
    """Who changed what, when, from where. Nothing here is ever changed or deleted."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    actor: Mapped[str]
    address: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    details: Mapped[dict[str, Any]]
