"""Makes a backup while controllers run: what one transaction sees."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, select, text
from sqlalchemy.exc import SQLAlchemyError

from cloud_sync.controller.backup.file import KEYS, Failed, Header, Line, write
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store.database import make_engine, reached
from cloud_sync.controller.store.tables import Table as Tables

AT_ONCE = 1000  # rows


async def save(settings: ControllerSettings, path: Path) -> int:
    """How many rows. Failed: the database; OSError: it, or a file; ValueError: the database's URL."""
    files = [(name, settings.data_dir / name) for name in KEYS]
    keys = await asyncio.to_thread(lambda: {name: one.read_text() for name, one in files})
    engine = make_engine(settings.database)
    try:
        async with contextlib.aclosing(await reached(engine)) as connection:
            if engine.dialect.name == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ")
            return await connection.run_sync(_save, path, keys)
    except SQLAlchemyError as error:
        raise Failed(f"the database cannot be read: {error}") from error
    finally:
        await engine.dispose()


def _save(connection: Connection, path: Path, keys: dict[str, str]) -> int:
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    header = Header(format=1, revision=str(revision), made_at=time.time(), keys=keys)
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in Tables.metadata.tables)  # partitions are in theirs
    return write(path, header, (_lines(connection, table) for table in found.sorted_tables))


def _lines(connection: Connection, table: Table) -> Line:
    return table.name, list(table.columns.keys()), _rows(connection, table)


def _rows(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    order = table.primary_key.columns or table.columns
    with connection.execution_options(yield_per=AT_ONCE).execute(select(table).order_by(*order)) as result:
        for row in result:
            yield list(row)
