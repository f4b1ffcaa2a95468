"""The folders that pulls work in: one an origin, locked while in use, kept a week to resume from."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from models import disk
from models.shelf import Shelf
from models.sources.progress import Meter

KEEP_S = 7 * 86400
_POLL_S = 0.2


@asynccontextmanager
async def working(shelf: Shelf, key: str, meter: Meter) -> AsyncIterator[Path]:
    """A folder that no other pull, of this process or another, uses meanwhile."""
    shelf.work.mkdir(parents=True, exist_ok=True)
    lock = shelf.work / f"{key}.lock"
    while (held := disk.try_lock(lock)) is None:
        meter("waiting")
        await asyncio.sleep(_POLL_S)
    try:
        folder = shelf.work / key
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        yield folder
    finally:
        os.close(held)


def finish(shelf: Shelf, key: str) -> None:
    """Remove a folder whose work is done. Its lock must be held."""
    shutil.rmtree(shelf.work / key, ignore_errors=True)
    (shelf.work / f"{key}.lock").unlink(missing_ok=True)


def sweep(shelf: Shelf, older_than_s: float = KEEP_S) -> None:
    """Remove what abandoned pulls left."""
    for lock in shelf.work.glob("*.lock"):
        held = disk.try_lock(lock)
        if held is None:
            continue
        try:
            if time.time() - _changed(lock.with_suffix("")) >= older_than_s:
                finish(shelf, lock.stem)
        finally:
            os.close(held)


def make_room(shelf: Shelf, need: int, what: str) -> None:
    """NoRoom unless `need` bytes fit; abandoned pulls give way first."""
    if disk.free(shelf.work) < need + disk.MARGIN:
        sweep(shelf, older_than_s=0)
    disk.check_room(shelf.work, need, what)


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
