"""What is kept, and for how long, with the time handed in; who is behind, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select, text, update

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.store.events import put_down, record_event
from cloud_sync.controller.store.tables import Certificate, Node
from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS, Excerpt, FleetEvent, Series
from cloud_sync.controller.telemetry.behind import Behinds
from cloud_sync.controller.telemetry.core import FleetTelemetry
from cloud_sync.controller.telemetry.counts import Counts
from cloud_sync.controller.telemetry.exposition import Exposition
from cloud_sync.controller.telemetry.history import Page
from cloud_sync.controller.telemetry.keeping import Keeping
from cloud_sync.controller.telemetry.series import Wanted
from cloud_sync.identity import DAY, Holder
from cloud_sync.messages import Telemetry
from tests.support.node import event, minute

BEGIN = 20_000 * DAY
HOUR = 3600


class Days:
    now = BEGIN

    def __call__(self) -> float:
        return self.now


class Place:
    """One copy of the controller, without its doors, and one node."""

    def __init__(self, store: Store, days: Days, settings: ControllerSettings) -> None:
        self.store, self.days, self.settings = store, days, settings
        self.telemetry = FleetTelemetry(store, settings)
        self.keeping = Keeping(store, settings)
        self._seqs: dict[str, int] = {}

    async def enrol(self, name: str = "box") -> Holder:
        async with self.store.write() as session:
            node = Node(id=name, name=name, labels={}, joined_at=self.days.now, generation=1)
            session.add(node)
            await session.flush()
            session.add(Certificate(serial=name, node=name, key="", not_after=1e12))
        return Holder(name, name, 1e12)

    async def send(self, holder: Holder, **streams: list[dict[str, Any]]) -> None:
        for stream, rows in streams.items():
            for row in rows:
                row["seq"] = self._seqs[stream] = self._seqs.get(stream, 0) + 1
        body = {"database": "database", "sent_at": self.days.now, "streams": streams}
        await self.telemetry.ingest.take(holder, Telemetry.model_validate(body))

    async def count(self, table: Any) -> int:
        async with self.store.read() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0

    async def total(self, begin: float, end: float) -> list[tuple[float, ...]]:
        """Of `up`: count, sum, min, max, last, over all that time."""
        wanted = {"name": "up", "from": begin, "to": end, "step_s": int(DAY) * 300}
        [line] = (await self.telemetry.series.lines(Wanted.model_validate(wanted))).lines
        return [point[1:] for point in line.points]


@pytest.fixture
def url(database: Callable[[], dict[str, str]], tmp_path: Path) -> str:
    return database().get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'controller.db'}")


@pytest_asyncio.fixture
async def place(url: str, tmp_path: Path) -> AsyncIterator[Place]:
    days = Days()
    store = await open_store(url, days)
    yield Place(store, days, ControllerSettings(data_dir=tmp_path, behind_after_s=600, backlog_rows=10))
    await store.close()


async def partitions(store: Store, table: str) -> list[str]:
    async with store.read() as session:
        found = await session.scalars(
            text(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass")
        )
        return sorted(found)


async def test_minutes_become_hours_and_hours_go_in_the_end(place: Place) -> None:
    node = await place.enrol()
    for n in range(1, 181):  # three hours
        place.days.now = BEGIN + 60 * n
        await place.send(node, metrics=[minute(0, place.days.now - 60, up=[1, n, n, n, n])])
    before = await place.total(BEGIN, BEGIN + DAY)
    assert before == [(180, sum(range(1, 181)), 1, 180, 180)]
    place.days.now = BEGIN + 15 * DAY
    await place.keeping.tidy()
    assert await place.count(POINTS) == 180  # a batch may come yet with points as old
    place.days.now += 2 * DAY
    await place.keeping.tidy()
    assert (await place.count(POINTS), await place.count(HOURS)) == (0, 3)
    assert await place.total(BEGIN, BEGIN + DAY) == before
    place.days.now += 450 * DAY
    await place.keeping.tidy()
    assert (await place.count(HOURS), await place.count(Series)) == (0, 0)


async def test_points_that_come_late_are_with_those_of_their_time(place: Place) -> None:
    node = await place.enrol()
    place.days.now += 20 * DAY
    await place.keeping.tidy()
    await place.send(node, metrics=[minute(0, BEGIN + 60, up=[1, 5, 5, 5, 5])])
    assert (await place.count(POINTS), await place.count(HOURS)) == (0, 1)
    await place.keeping.tidy()
    assert await place.total(BEGIN, BEGIN + HOUR) == [(1, 5, 5, 5, 5)]
    place.days.now += 500 * DAY
    await place.send(node, metrics=[minute(0, BEGIN + 120, up=[1, 5, 5, 5, 5])])
    await place.keeping.tidy()
    assert await place.count(HOURS) == 0


async def test_postgresql_has_partitions_ahead_and_drops_those_that_are_over(place: Place) -> None:
    if not place.store.postgres:
        pytest.skip("SQLite has none")
    await place.keeping.tidy()
    assert await partitions(place.store, "points") == [f"points_p{20_000 + n}" for n in range(3)]
    node = await place.enrol()
    await place.send(node, metrics=[minute(0, BEGIN + 60, up=[1] * 5)])
    place.days.now += 16 * DAY
    await place.send(node, metrics=[minute(0, place.days.now - 3 * DAY, up=[1] * 5)])
    await place.keeping.tidy()
    days = [20_001, 20_002, 20_013, 20_016, 20_017, 20_018]
    assert await partitions(place.store, "points") == [f"points_p{n}" for n in days]
    assert await place.count(POINTS) == 1


async def test_events_logs_and_samples_go_when_their_time_is_over(place: Place) -> None:
    node = await place.enrol()
    streams = {name: [event(0) for _ in range(3)] for name in ("events", "logs", "samples")}
    await place.send(node, **streams)
    place.days.now += 29 * DAY
    await place.keeping.tidy()
    assert (await place.count(FleetEvent), await place.count(Excerpt)) == (3, 6)
    place.days.now += 2 * DAY
    await place.keeping.tidy()
    assert (await place.count(FleetEvent), await place.count(Excerpt)) == (3, 0)
    [first, *_] = await place.telemetry.history.events(Page())
    place.days.now += 400 * DAY
    await place.keeping.tidy()
    assert await place.count(FleetEvent) == 0
    await place.send(node, events=[event(0)])
    [later] = await place.telemetry.history.events(Page())
    assert later.id > first.id, "an id is never given again, or who asks on from one misses it"


async def test_sqlites_file_shrinks(place: Place, tmp_path: Path) -> None:
    if place.store.postgres:
        pytest.skip("that is PostgreSQL's own business")
    node = await place.enrol()
    for _ in range(10):
        await place.send(node, logs=[event(0, "warning", text="x" * 20_000) for _ in range(100)])
    file = tmp_path / "controller.db"
    place.days.now += 31 * DAY
    await place.keeping.tidy()
    async with place.store.engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert file.stat().st_size < 10 << 20


async def test_a_node_that_is_behind_for_too_long_is_an_event_once_and_so_is_its_return(
    place: Place, url: str
) -> None:
    await place.enrol()
    other = await open_store(url, place.days)  # another copy of the controller
    copies = [Behinds(store, place.settings) for store in (place.store, other)]

    async def sweep(**fields: Any) -> list[tuple[str, Any]]:
        """Both copies at once, once the node's row is so."""
        async with place.store.write() as session:
            node = await session.get_one(Node, "box")
            for name, value in fields.items():
                setattr(node, name, value)
        await asyncio.gather(*(one.sweep() for one in copies))
        await asyncio.gather(*(one.sweep() for one in copies))
        events = await place.telemetry.history.events(Page(after=0))
        return [(one.kind, (one.node, one.body["what"], one.body.get("by"))) for one in events]

    try:
        assert await sweep() == []  # it was never there
        assert await sweep(seen_at=BEGIN, generation=3, observed_generation=1) == []
        place.days.now += 599
        assert await sweep(observed_generation=2) == []
        place.days.now += 1
        told = [("node.behind", ("box", "generation", 1))]
        assert await sweep() == told
        assert await sweep(backlog=11) == told
        told.append(("node.caught_up", ("box", "generation", None)))
        assert await sweep(observed_generation=3) == told
        place.days.now += 600
        told.append(("node.behind", ("box", "telemetry", 11)))
        assert await sweep() == told
        assert await sweep(state="revoked") == told  # it counts no longer: it has not caught up
        place.days.now += 600
        assert await sweep(generation=4) == told
    finally:
        await other.close()


async def test_who_follows_events_by_their_ids_misses_none(place: Place, url: str) -> None:
    other = await open_store(url)
    seen: list[int] = []

    async def tell(number: int) -> None:
        async with other.write() as session:
            record_event(session, 1.0, None, "event", {"n": number})

    async def look() -> None:
        rows = await place.telemetry.history.events(Page(after=len(seen)))
        seen.extend(row.body["n"] for row in rows)

    try:
        async with place.store.write() as session:
            record_event(session, 1.0, None, "event", {"n": 1})
            await put_down(session)  # it has its id now, and is not committed
            second = asyncio.create_task(tell(2))
            await asyncio.wait({second}, timeout=0.5)
            await look()
        await second
        await look()
    finally:
        await other.close()
    assert seen == [1, 2]


async def test_each_copy_tells_prometheus_the_same_of_the_fleet_and_of_so_many_nodes_by_name(
    place: Place, url: str
) -> None:
    place.settings.metrics_nodes = 1
    other = await open_store(url, place.days)
    for name in ("first", "second"):
        await place.enrol(name)
    async with place.store.write() as session:
        await session.execute(update(Node).values(seen_at=BEGIN - 5, backlog=20, generation=4))
    await Behinds(place.store, place.settings).sweep()
    try:
        told = [await Exposition(store, place.settings, Counts()).render() for store in (place.store, other)]
    finally:
        await other.close()
    fleet, again = ({line for line in one.decode().splitlines() if "_node" in line} for one in told)
    assert fleet == again
    assert 'autoglm_cloud_nodes{state="active"} 2.0' in fleet
    assert 'autoglm_cloud_nodes_behind{what="telemetry"} 2.0' in fleet
    assert 'autoglm_cloud_node_silent_seconds{node="first"} 5.0' in fleet
    assert 'autoglm_cloud_node_generations_behind{node="first"} 4.0' in fleet
    assert "autoglm_cloud_nodes_not_shown 1.0" in fleet
    assert not any('node="second"' in line for line in fleet)
