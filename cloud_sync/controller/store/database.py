"""One engine for SQLite or PostgreSQL; a reading or a writing transaction at a time for each caller.

SQLite has one writer: writing transactions take turns here, so that none ever finds the database busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from cloud_sync.controller.store import events
from cloud_sync.controller.store.json_text import as_json
from cloud_sync.controller.store.turns import Turn

MIGRATIONS = Path(__file__).parent / "migrations"
KINDS = "a database is sqlite:///FILE or postgresql://user:password@host/name"
INCREMENTAL = 2  # SQLite's number for this auto_vacuum
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


class UnknownRevision(ValueError):
    """The tables are those of a newer release."""


class Store:
    """`clock`: wall time in seconds."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.now = clock
        self._one_writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None
        self._writes = engine.execution_options(immediate=True)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Committed at the end, with the events that were recorded; rolled back by an exception."""
        async with (
            self._one_writer or contextlib.nullcontext(),
            AsyncSession(self._writes, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
            await events.put_down(session)

    @property
    def postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextlib.asynccontextmanager
    async def turn(self, turn: Turn) -> AsyncIterator[AsyncSession | None]:
        """`write` for what one copy of the controller does at a time; None: another one is at it."""
        async with self.write() as session:
            asked = text("SELECT pg_try_advisory_xact_lock(:turn)")
            mine = not self.postgres or await session.scalar(asked, {"turn": turn})
            yield session if mine else None

    async def close(self) -> None:
        await self.engine.dispose()


async def open_store(url: str, clock: Callable[[], float] = time.time) -> Store:
    """The database at `url`, migrated. OSError: it cannot be reached; ValueError: it is of no known kind."""
    engine = make_engine(url)
    async with contextlib.aclosing(await reached(engine)) as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    return Store(engine, clock)


async def reached(engine: AsyncEngine) -> AsyncConnection:
    """OSError: there is none, or it wants another user, password or name."""
    try:
        return await engine.connect()
    except (DBAPIError, OSError) as error:
        said = error.orig if isinstance(error, DBAPIError) else error
        where = engine.url.set(drivername=engine.dialect.name)  # as a person gave it; its password is hidden
        raise OSError(f"the database {where}: {said}; see AUTOGLM_CLOUD_DATABASE_URL") from error


def make_engine(url: str) -> AsyncEngine:
    """Of the database as it is. ValueError: it is of a kind that is not known."""
    engine = create_async_engine(_with_driver(url), pool_pre_ping=True, json_serializer=as_json)
    if engine.dialect.name == "sqlite":
        _as_a_server_needs(engine)
    return engine


def _with_driver(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(f"{KINDS}: AUTOGLM_CLOUD_DATABASE_URL is neither") from None
    kind = parsed.get_backend_name()
    if kind not in _DRIVERS:
        raise ValueError(f"{KINDS}, not {kind}")
    return parsed.set(drivername=_DRIVERS[kind])


def migrate(connection: Connection, revision: str = "head") -> None:
    """Up to this revision; it is for the caller to commit. UnknownRevision."""
    if connection.dialect.name == "postgresql":  # of several copies that start at once, one migrates
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": Turn.MIGRATE})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise UnknownRevision(f"the database is of a newer release than this controller: {error}") from error


def _as_a_server_needs(engine: AsyncEngine) -> None:
    """WAL, commits that a power cut cannot undo, and transactions that SQLAlchemy itself begins."""

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA auto_vacuum")
        if cursor.fetchone() != (INCREMENTAL,):  # to set it waits for whoever writes
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before WAL, or it is ignored
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
