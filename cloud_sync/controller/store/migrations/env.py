"""Alembic's entry: on the connection that it is given."""

from __future__ import annotations

from alembic import context

import cloud_sync.controller.store.answers  # these add to the metadata
import cloud_sync.controller.store.hooks
import cloud_sync.controller.store.telemetry_tables  # noqa: F401
from cloud_sync.controller.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
