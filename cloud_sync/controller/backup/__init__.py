"""Backup and restore: one file with the controller's keys and all its tables, from and to either database."""

from cloud_sync.controller.backup.file import BadBackup, Failed, Header
from cloud_sync.controller.backup.restore import InUse, NotEmpty, restore
from cloud_sync.controller.backup.save import save

__all__ = ["BadBackup", "Failed", "Header", "InUse", "NotEmpty", "restore", "save"]
