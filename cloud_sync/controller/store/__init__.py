"""The controller's database: its tables, how it is opened, and what one transaction is."""

# So that the metadata has all tables:
from cloud_sync.controller.store import accounts, answers, hooks, telemetry_tables  # noqa: F401
from cloud_sync.controller.store.database import Store, open_store

__all__ = ["Store", "open_store"]
