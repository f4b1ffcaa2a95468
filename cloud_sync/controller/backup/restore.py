"""Puts a backup in the place of what is there: all of it, or nothing. No controller may run meanwhile.

Nodes may know documents that were made after the backup, so the next epoch begins; join tokens that were not
used by then are void, since they may have been used after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.backup.file import KEYS, BadBackup, Failed, Header, Reader
from cloud_sync.controller.backup.save import AT_ONCE
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store.database import UnknownRevision, make_engine, migrate, reached
from cloud_sync.controller.store.tables import Table as Tables
from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS
from cloud_sync.controller.telemetry import partitions
from models.disk import write_private


class NotEmpty(Failed):
    """A controller's data are there already."""


class InUse(Failed):
    """A controller runs on them."""


async def restore(settings: ControllerSettings, path: Path, actor: str, force: bool) -> Header:
    """What was restored. Failed; OSError: a file, or no database; ValueError: the database's URL."""
    reader = await asyncio.to_thread(Reader, path)
    if _answers(settings.data_dir):
        raise InUse(f"a controller runs on {settings.data_dir}: stop it first")
    if (settings.data_dir / "ca.key").exists() and not force:
        raise NotEmpty(f"{settings.data_dir} is a controller's already: --force replaces it")
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = make_engine(settings.database)
    try:
        async with contextlib.aclosing(await reached(engine)) as connection:
            await _make_room(connection, force)
            await _load(connection, reader)
            await _begin_anew(connection, Actor(actor, ""), reader.header)
            await connection.commit()
    except SQLAlchemyError as error:
        raise Failed(f"the database does not take it: {error}") from error
    finally:
        await engine.dispose()
    for name in KEYS:
        await asyncio.to_thread(write_private, settings.data_dir / name, reader.header.keys[name].encode())
    return reader.header


def _answers(folder: Path) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int((folder / "port").read_text())), 2):
            return True
    except (OSError, ValueError):
        return False


async def _make_room(connection: AsyncConnection, force: bool) -> None:
    if connection.dialect.name == "postgresql":
        others = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        if await connection.scalar(others):
            raise InUse("others are connected to the database: stop all controllers first")
    names = await connection.run_sync(lambda one: set(inspect(one).get_table_names()))
    if not names & Tables.metadata.tables.keys():
        return
    if not force:
        raise NotEmpty("the database has a controller's tables already: --force replaces them")
    await connection.run_sync(Tables.metadata.drop_all)
    await connection.execute(text("DROP TABLE IF EXISTS alembic_version"))


async def _load(connection: AsyncConnection, reader: Reader) -> None:
    """As the tables were, and then as this release has them."""
    try:
        await connection.run_sync(migrate, reader.header.revision)
    except UnknownRevision:
        raise BadBackup(f"the backup is of a newer release (tables {reader.header.revision})") from None
    found = MetaData()
    await connection.run_sync(found.reflect, only=lambda name, _: name in Tables.metadata.tables)
    for name, columns, rows in reader.tables():
        if name not in found.tables:
            raise BadBackup(f"the backup has a table {name!r}, which is not known here")
        await _fill(connection, found.tables[name], columns, rows)
    await connection.run_sync(migrate)


async def _fill(
    connection: AsyncConnection, table: Table, columns: Sequence[str], rows: Iterator[Sequence[Any]]
) -> None:
    if await connection.scalar(table.select().limit(1)) is not None:  # the migration's own row
        await connection.execute(table.delete())
    session = AsyncSession(connection, join_transaction_mode="control_fully")
    while some := [dict(zip(columns, row, strict=True)) for row in itertools.islice(rows, AT_ONCE)]:
        if connection.dialect.name == "postgresql":
            for parted in (POINTS, HOURS):
                if table.name == parted.name:
                    wanted = {partitions.index(parted, row["at"]) for row in some}
                    await partitions.ensure(session, parted, wanted)
        await connection.execute(table.insert(), some)
    if connection.dialect.name == "postgresql":
        await connection.run_sync(_go_on_counting, table)


def _go_on_counting(connection: Connection, table: Table) -> None:
    for column in table.primary_key.columns:
        sequence = connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": table.name, "column": column.name},
        )
        if sequence:
            highest = connection.scalar(text(f'SELECT max("{column.name}") FROM "{table.name}"')) or 0  # noqa: S608
            connection.execute(
                text("SELECT setval(:one, :next, false)"), {"one": sequence, "next": highest + 1}
            )


async def _begin_anew(connection: AsyncConnection, actor: Actor, header: Header) -> None:
    await connection.execute(text("UPDATE fleet SET epoch = epoch + 1, revision = revision + 1"))
    await connection.execute(text("UPDATE nodes SET revision = (SELECT revision FROM fleet)"))
    await connection.execute(text("UPDATE join_tokens SET expires_at = 0 WHERE used_at IS NULL"))
    session = AsyncSession(connection, join_transaction_mode="control_fully")
    record(session, time.time(), actor, "backup.restored", "fleet", made_at=header.made_at)
    await session.flush()
