"""A minute of the agent's metrics: of each series that has something to tell, what it did. Does no I/O.

As in `cloud_sync.messages.Row`: `[count, sum, min, max, last]`. A counter is one value, what it grew by. A
gauge is as often as it was looked at, and is left out while it stays what was told. A histogram is its
observations; its extremes are bounds of the buckets that they fell into, and its last is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

AGAIN_S = 6 * 3600.0  # how often a gauge that does not change is told all the same
LEFT_OUT = ("autoglm:telemetry_", "python_", "process_")  # the telemetry's own would never rest
PROBES = {"/healthz", "/readyz", "/metrics", "/status"}  # routes that machines ask all day

Series = dict[str, list[float]]


class Sample(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def value(self) -> float: ...


class Family(Protocol):
    """As prometheus_client collects them."""

    name: str
    type: str

    @property
    def samples(self) -> Iterable[Sample]: ...


class Rollup:
    def __init__(self) -> None:
        self._counted: dict[str, float] = {}  # values of counters when they were last told
        self._gauges: dict[str, list[float]] = {}  # values since
        self._told: dict[str, tuple[float, float]] = {}  # of gauges: the value, and when it was told

    def look(self, families: Iterable[Family]) -> None:
        """Take note of the gauges."""
        for family in families:
            if family.type == "gauge" and not family.name.startswith(LEFT_OUT):
                for one in family.samples:
                    self._gauges.setdefault(_name(one.name, one.labels), []).append(one.value)

    def close(self, families: Iterable[Family], now: float) -> Series:
        """What was since the last call; `now` is monotonic, in seconds."""
        found = list(families)
        self.look(found)
        series = dict(self._of_gauges(now))
        for family in found:
            if family.name.startswith(LEFT_OUT):
                continue
            if family.type == "counter":
                series.update(self._of_counters(family))
            elif family.type == "histogram":
                series.update(self._of_histograms(family))
        return {
            name: [_short(value) for value in values]
            for name, values in series.items()
            if all(map(math.isfinite, values))
        }

    def _of_gauges(self, now: float) -> Iterator[tuple[str, list[float]]]:
        for name, values in self._gauges.items():
            value, at = self._told.get(name, (math.nan, -math.inf))
            if all(one == value for one in values) and now - at < AGAIN_S:
                continue
            self._told[name] = (values[-1], now)
            yield name, [len(values), sum(values), min(values), max(values), values[-1]]
        self._told = {name: told for name, told in self._told.items() if name in self._gauges}
        self._gauges = {}

    def _of_counters(self, family: Family) -> Iterator[tuple[str, list[float]]]:
        for one in family.samples:
            if one.name.endswith("_total") and one.labels.get("route") not in PROBES:
                name = _name(one.name, one.labels)
                if grown := self._grown(name, one.value):
                    yield name, [1, grown, grown, grown, grown]

    def _of_histograms(self, family: Family) -> Iterator[tuple[str, list[float]]]:
        buckets: dict[str, list[tuple[float, float]]] = {}  # upper bounds, and what is at or below them
        sums: dict[str, float] = {}
        for one in family.samples:
            labels = {key: value for key, value in one.labels.items() if key != "le"}
            name = _name(family.name, labels)
            if one.name.endswith("_bucket"):
                key = f"{name} {one.labels['le']}"
                buckets.setdefault(name, []).append((float(one.labels["le"]), self._grown(key, one.value)))
            elif one.name.endswith("_sum"):
                sums[name] = self._grown(f"{name} sum", one.value)
        for name, grown in buckets.items():
            count = grown[-1][1]
            if count:
                low, high = _extremes(grown)
                mean = sums[name] / count
                yield name, [count, sums[name], min(low, mean), max(high, mean), mean]

    def _grown(self, name: str, value: float) -> float:
        before, self._counted[name] = self._counted.get(name, 0.0), value
        return value - before if value >= before else value


def _short(value: float) -> float:
    """As JSON has it in few characters: whole numbers as such, others to a millionth."""
    return round(value) if value == round(value) else round(value, 6)


def _extremes(grown: list[tuple[float, float]]) -> tuple[float, float]:
    """The bounds of the lowest and the highest bucket that grew; of the last, where it begins."""
    low = high = below = before = 0.0
    found = False
    for bound, count in grown:
        if count > before:
            low = low if found else below
            high = bound if math.isfinite(bound) else below
            found = True
        below, before = bound, count
    return low, high


def _name(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    told = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{name}{{{told}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
