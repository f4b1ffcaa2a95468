"""The parts that have to do with telemetry, and what they do by themselves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store
from cloud_sync.controller.telemetry.behind import Behinds
from cloud_sync.controller.telemetry.counts import Counts
from cloud_sync.controller.telemetry.exposition import Exposition
from cloud_sync.controller.telemetry.history import History
from cloud_sync.controller.telemetry.ingest import Ingest
from cloud_sync.controller.telemetry.keeping import Keeping
from cloud_sync.controller.telemetry.series import SeriesQueries

TIDY_S = 600.0
SWEEP_S = 5.0
log = structlog.get_logger()


class FleetTelemetry:
    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self.counts = Counts()
        self.ingest = Ingest(store, settings, self.counts)
        self.history = History(store)
        self.series = SeriesQueries(store)
        self.exposition = Exposition(store, settings, self.counts)
        self._keeping = Keeping(store, settings)
        self._behinds = Behinds(store, settings)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(TIDY_S, self._keeping.tidy))
            group.create_task(_every(SWEEP_S, self._behinds.sweep))


async def _every(period_s: float, do: Callable[[], Awaitable[None]]) -> None:
    """A database that cannot be reached now is asked again."""
    while True:
        try:
            await do()
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            log.warning("not done, later again", what=do.__qualname__, error=str(error))
        await asyncio.sleep(period_s)
