"""An outbox on a fast disk, where there is one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloud_sync.telemetry.outbox import NAME, Outbox


@pytest.fixture
def folder() -> Iterator[Path]:
    made = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    yield Path(made)
    shutil.rmtree(made)


@pytest_asyncio.fixture
async def open_outbox(folder: Path) -> AsyncIterator[Callable[..., Outbox]]:
    """`open_outbox(quota=50 << 20)`: the one of `folder`, opened (again)."""
    opened: list[Outbox] = []

    def open_(quota: int = 50 << 20) -> Outbox:
        opened.append(Outbox(folder / NAME, lambda: quota))
        return opened[-1]

    yield open_
    for one in opened:
        await one.close()
