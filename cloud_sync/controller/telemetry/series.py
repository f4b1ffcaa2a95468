"""Time series, as they are asked for: by name, over nodes, in steps of time."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import CTE, ColumnElement, Select, case, func, literal, or_, select, union_all

from cloud_sync.controller.errors import Invalid
from cloud_sync.controller.selectors import Selector
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS, Series
from cloud_sync.controller.telemetry.history import Seconds

HOUR = 3600
MOST_STEPS = 2000
MOST_POINTS = 50_000

Name = Annotated[str, Field(min_length=1, max_length=1100, pattern=r"^[^\x00]*$")]
Nodes = Annotated[str, Field(max_length=2000)]


class NameRow(BaseModel):
    name: str
    nodes: int
    """How many have it."""
    seen_at: float
    """When points of it came last, to a day."""


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    """Of a metric, for all its series, or of a series with its labels: `name{label="value"}`."""
    selector: Nodes = "all"
    """`all`, `key=value,...`, or `node:NAME`."""
    by: Literal["metric", "series", "node"] = "series"
    """What has a line of its own: the metric as a whole, each of its series, or each series of each node."""
    from_: Annotated[Seconds | None, Field(alias="from")] = None
    """Wall time in seconds; an hour before `to` unless told."""
    to: Seconds | None = None
    """Now, unless told."""
    step_s: Annotated[int, Field(ge=1, le=366 * 86400)] | None = None
    """A sixtieth of the time, and whole minutes, unless told."""


Aggregate = tuple[int, int, float, float, float, float]
"""Of a step: when it begins, count, sum, min, max, and the last value in it."""


class Line(BaseModel):
    node: str | None
    name: str
    points: list[Aggregate]


class Lines(BaseModel):
    """Steps without points are left out."""

    from_: Annotated[int, Field(alias="from")]
    to: int
    step_s: int
    lines: list[Line]


class SeriesQueries:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def names(self, selector: str, after: str, limit: int) -> list[NameRow]:
        """In the order of the names. Invalid."""
        meets = _meets(Selector.parse(selector))
        rows = (
            select(Series.name, func.count(), func.max(Series.seen_at))
            .join(Node, Node.id == Series.node)
            .where(Series.name > after, Node.state != "gone", *meets)
            .group_by(Series.name)
            .order_by(Series.name)
            .limit(limit)
        )
        async with self._store.read() as session:
            found = (await session.execute(rows)).all()
        return [NameRow(name=name, nodes=nodes, seen_at=seen_at) for name, nodes, seen_at in found]

    async def lines(self, wanted: Wanted) -> Lines:
        """Invalid: too much at once."""
        begin, end, step_s = _range(wanted, self._store.now())
        asked = _steps(_points(wanted, begin, end), step_s).limit(MOST_POINTS + 1)
        async with self._store.read() as session:
            found = (await session.execute(asked)).all()
        if len(found) > MOST_POINTS:
            raise Invalid("too_much", f"more than {MOST_POINTS} points: ask for fewer nodes or longer steps")
        lines = [
            Line(node=node, name=name, points=[_aggregate(row) for row in rows])
            for (node, name), rows in groupby(found, key=lambda row: (row[0], row[1]))
        ]
        return Lines.model_validate({"from": begin, "to": end, "step_s": step_s, "lines": lines})


def _range(wanted: Wanted, now: float) -> tuple[int, int, int]:
    """Begin, end and step."""
    end = int(now) + 1 if wanted.to is None else int(wanted.to)
    begin = int(end - HOUR if wanted.from_ is None else wanted.from_)
    if begin >= end:
        raise Invalid("bad_range", "`from` must be before `to`")
    step_s = wanted.step_s or max(60, -(-(end - begin) // 60 // 60) * 60)
    if (end - begin) / step_s > MOST_STEPS:
        raise Invalid("too_much", f"more than {MOST_STEPS} steps: ask for a longer step or a shorter time")
    return begin, end, step_s


def _points(wanted: Wanted, begin: int, end: int) -> CTE:
    """Those that begin in this time, each with the line that it is of."""
    node = Node.name.expression if wanted.by == "node" else literal(None)
    name = Series.metric if wanted.by == "metric" else Series.name
    made = (
        select(node.label("node"), name.label("name"), *(one for one in table.c if one.name != "series"))
        .join(Series, Series.id == table.c.series)
        .join(Node, Node.id == Series.node)
        .where(
            or_(Series.metric == wanted.name, Series.name == wanted.name),
            table.c.at >= begin,
            table.c.at < end,
            *_meets(Selector.parse(wanted.selector)),
        )
        for table in (POINTS, HOURS)
    )
    return union_all(*made).cte("found")


def _steps(points: CTE, step_s: int) -> Select[Any]:
    """Node, name, begin of the step, and its aggregates; a point is in the step in which it begins."""
    at = (points.c.at // step_s * step_s).label("step")
    place = func.row_number().over(
        partition_by=(points.c.node, points.c.name, at), order_by=points.c.at.desc()
    )
    c = select(points, at, place.label("place")).cte("placed").c
    last = func.max(case((c.place == 1, c.last)))
    line = (c.node, c.name, c.step)
    return (
        select(*line, func.sum(c.count), func.sum(c.sum), func.min(c.min), func.max(c.max), last)
        .group_by(*line)
        .order_by(*line)
    )


def _meets(selector: Selector) -> list[ColumnElement[bool]]:
    if selector.node is not None:
        return [Node.name == selector.node]
    return [Node.labels[key].as_string() == value for key, value in selector.labels]


def _aggregate(row: Any) -> Aggregate:
    _, _, step, count, *rest = row
    sum_, min_, max_, last = map(float, rest)
    return int(step), int(count), sum_, min_, max_, last
