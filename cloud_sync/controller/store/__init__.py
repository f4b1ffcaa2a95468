"""The controller's database: its tables, how it is opened, and what one transaction is."""

from cloud_sync.controller.store.database import Store, open_store

__all__ = ["Store", "open_store"]
