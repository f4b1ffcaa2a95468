"""The tables as the code knows them are the tables as the migrations make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.store.tables import Table


@pytest_asyncio.fixture
async def store(database: Callable[[], dict[str, str]], tmp_path: Path) -> Any:
    url = database().get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'controller.db'}")
    store = await open_store(url)
    yield store
    await store.close()


async def test_the_migrations_make_what_the_code_knows(store: Store) -> None:
    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def differences(connection: Connection) -> list[Any]:
    sqlites_own = {"points_at", "hours_at"} if connection.dialect.name != "sqlite" else set()

    def ours(_: Any, name: str | None, kind: str, reflected: bool, __: Any) -> bool:
        return name not in {"alembic_version", *sqlites_own}

    context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
    return list(compare_metadata(context, Table.metadata))
