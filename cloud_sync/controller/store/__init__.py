"""The controller's database: its tables, how it is opened, and what one transaction is."""

from cloud_sync.controller.store import accounts  # noqa: F401 - so that the metadata has its tables
from cloud_sync.controller.store.database import Store, open_store

__all__ = ["Store", "open_store"]
