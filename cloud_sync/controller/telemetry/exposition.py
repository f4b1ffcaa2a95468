"""`/metrics`: the fleet as the database has it, the same from each copy, and what this copy has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from cloud_sync import __version__
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Fleet, Node
from cloud_sync.controller.store.telemetry_tables import Behind
from cloud_sync.controller.telemetry.behind import NOT_COUNTED
from cloud_sync.controller.telemetry.counts import PREFIX, Counts

STATES = ("active", "lost", "cloned", "revoked")
WHAT = ("generation", "telemetry")
_READ = (
    *(Node.name, Node.state, Node.seen_at, Node.generation, Node.observed_generation),
    *(Node.backlog, Node.clock_skew_s),
)  # columns alone: there may be ten thousand


class Exposition:
    def __init__(self, store: Store, settings: ControllerSettings, counts: Counts) -> None:
        self._store, self._settings, self._counts = store, settings, counts

    async def render(self) -> bytes:
        """Prometheus' text."""
        fleet = CollectorRegistry(auto_describe=False)
        fleet.register(_Made([*await self._fleet(), _gauge("build_info", "1.", {__version__: 1}, "version")]))
        return generate_latest(fleet) + generate_latest(self._counts.registry)

    async def _fleet(self) -> Sequence[Metric]:
        asked = select(*_READ).where(Node.state != "gone").order_by(Node.name)
        late = select(Behind.what, func.count(), func.count(Behind.alarmed_at)).group_by(Behind.what)
        async with self._store.read() as session:
            nodes: Sequence[Any] = (await session.execute(asked)).all()
            behind = {what: (count, alarms) for what, count, alarms in await session.execute(late)}
            epoch = (await session.get_one(Fleet, 1)).epoch
        now = self._store.now()
        states = Counter(node.state for node in nodes)
        here = [node for node in nodes if node.state not in NOT_COUNTED and node.seen_at is not None]
        shown = here[: self._settings.metrics_nodes]
        by_state = {state: states[state] for state in STATES}
        late_now, alarms = ({what: behind.get(what, (0, 0))[i] for what in WHAT} for i in (0, 1))
        waiting = sum(node.backlog for node in here)
        return [
            _gauge("epoch", "Of the fleet's documents: it grows when a backup was restored.", {"": epoch}),
            _gauge("nodes", "Nodes by state.", by_state, "state"),
            _gauge("nodes_behind", "Nodes that are behind.", late_now, "what"),
            _gauge("nodes_behind_alarms", "Nodes that are behind for too long.", alarms, "what"),
            _gauge("telemetry_backlog_rows", "Rows that wait on the nodes, as reported.", {"": waiting}),
            _gauge("nodes_not_shown", "Nodes without series of their own.", {"": len(here) - len(shown)}),
            *_of_each(shown, now),
        ]


def _of_each(nodes: Sequence[Any], now: float) -> Iterator[Metric]:
    silent = {node.name: now - (node.seen_at or now) for node in nodes}
    behind = {node.name: max(0, node.generation - node.observed_generation) for node in nodes}
    backlog = {node.name: node.backlog for node in nodes}
    skew = {node.name: node.clock_skew_s or 0.0 for node in nodes}
    yield _gauge("node_silent_seconds", "Since its last heartbeat.", silent, "node")
    yield _gauge("node_generations_behind", "Of its Desired document.", behind, "node")
    yield _gauge("node_backlog_rows", "Of telemetry that wait there, as reported.", backlog, "node")
    yield _gauge("node_clock_skew_seconds", "How far its clock is ahead.", skew, "node")


def _gauge(name: str, text: str, values: Mapping[str, float], label: str = "") -> Metric:
    """One sample for each value of the label; without a label one sample."""
    made = GaugeMetricFamily(PREFIX + name, text, labels=[label] if label else [])
    for value, number in values.items():
        made.add_metric([value] if label else [], number)
    return made


class _Made(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
