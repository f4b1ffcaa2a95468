"""Alembic's entry: on the connection that it is given."""

from __future__ import annotations

from alembic import context

from cloud_sync.controller.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
