"""Who is told of the fleet's events."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from cloud_sync.controller.store.tables import Table


class Hook(Table):
    """A receiver of notices: one HTTP address, or the fleet's MQTT topics."""

    __tablename__ = "hooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    """`mqtt`: the broker that the settings name."""
    url: Mapped[str]
    secret: Mapped[str]
    """Signs notices; empty for MQTT."""
    kinds: Mapped[str]
    """Of events, with commas between; empty: all."""
    made_by: Mapped[str]
    made_at: Mapped[float]

    sent: Mapped[int] = mapped_column(default=0)
    """The last event that was delivered, or was none for it."""
    failures: Mapped[int] = mapped_column(default=0)
    """In a row."""
    problem: Mapped[str] = mapped_column(default="")
    """Why the last delivery failed."""
    due_at: Mapped[float] = mapped_column(default=0.0)
    """When it is looked at next: after a failure, or because another copy of the controller is at it."""
