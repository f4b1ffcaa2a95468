"""What operators' changes were answered, for whoever did not hear it."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from cloud_sync.controller.store.tables import Table


class StoredAnswer(Table):
    """One `Idempotency-Key` of one actor. The key itself is not here, so nobody can read the answer here."""

    __tablename__ = "answers"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Digest of actor and key."""
    request: Mapped[str]
    """Digest of method, path and body, keyed with the key."""
    at: Mapped[float]
    status: Mapped[int | None] = mapped_column(default=None)
    """None: not answered yet."""
    body: Mapped[str] = mapped_column(default="")
    """Encrypted with the key."""
