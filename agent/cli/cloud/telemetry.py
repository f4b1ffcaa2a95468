"""What nodes tell of themselves: events, log lines, samples, and series over time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.cloud import pairs
from agent.cli.cloud.client import Client
from agent.cli.errors import UsageError
from agent.cli.screen import as_typed, err, out, print_json, table, when

POLL_S = 1.0
CALLS = 300  # of one client, whose authority ends after some time
BARS = "▁▂▃▄▅▆▇█"

Row = Mapping[str, Any]


def told(
    what: str,
    *,
    node: str | None,
    kind: Sequence[str],
    since: str | None,
    limit: int,
    follow: bool,
    json: bool,
) -> None:
    """`what`: events, logs, samples. The newest last."""
    asked = {"node": node, "kind": list(kind), "from": _since(since)}
    given = {name: value for name, value in asked.items() if value not in (None, [])}
    rows = Client().get(f"/{what}", limit=limit, **given)[::-1]
    if json and not follow:
        return print_json(rows)
    if not rows and not follow and out.is_terminal:
        err.print(f"No {what}")
    for row in rows:
        _show(row, json)
    if follow:
        for row in _follow(what, rows[-1]["id"] if rows else _newest(what), given):
            _show(row, json)


def names(node: str | None, to: str | None, json: bool) -> None:
    rows = Client().get("/series", selector=pairs.selector(to, node))
    if json:
        return print_json(rows)
    lines = [(row["name"], str(row["nodes"]), when(row["seen_at"])) for row in rows]
    table(("SERIES", "NODES", "SEEN"), lines, none="No series yet: nodes tell them with their heartbeat")


def lines(
    name: str,
    *,
    node: str | None,
    to: str | None,
    by: str,
    last: str,
    step: str | None,
    show: str,
    json: bool,
) -> None:
    """On a terminal a line for each series, with a curve of `show`; in a pipe one for each step."""
    if show not in _AGGREGATES:
        raise UsageError(f"--show is one of {', '.join(_AGGREGATES)}")
    asked: dict[str, Any] = {
        "name": name,
        "selector": pairs.selector(to, node),
        "by": by,
        "from": _since(last),
    }
    if step is not None:
        asked["step_s"] = int(pairs.seconds("--step", step))
    found = Client().get("/series/query", **asked)
    if json:
        return print_json(found)
    if not out.is_terminal:
        heads = ("SERIES", "NODE", "WHEN", *map(str.upper, _AGGREGATES))
        return table(heads, [_step(line, point) for line in found["lines"] for point in line["points"]])
    if not found["lines"]:
        err.print("No points in that time: autoglm cloud series lists the names")
    for line in found["lines"]:
        out.print(_plain(" ".join([line["node"] or "", line["name"]]).strip()), markup=False)
        out.print(f"  {_curve(line, found, show)}", markup=False)


_AGGREGATES = ("count", "sum", "mean", "min", "max", "last")


def _aggregates(point: Sequence[float]) -> dict[str, float]:
    _, count, total, least, most, newest = point
    values = (count, total, total / count if count else 0.0, least, most, newest)
    return dict(zip(_AGGREGATES, values, strict=True))


def _step(line: Row, point: Sequence[float]) -> tuple[str, ...]:
    values = (f"{value:.6g}" for value in _aggregates(point).values())
    return (line["name"], line["node"] or "", when(point[0]), *values)


def _curve(line: Row, found: Row, show: str) -> str:
    """What it shows by the step, and numbers over all the time."""
    values = {point[0]: _aggregates(point) for point in line["points"]}
    begin, step = found["from"] // found["step_s"] * found["step_s"], found["step_s"]
    over = [values[at][show] if at in values else None for at in range(begin, found["to"], step)]
    total, count = (sum(one[name] for one in values.values()) for name in ("sum", "count"))
    numbers = {
        "min": min(one["min"] for one in values.values()),
        "mean": total / count if count else 0.0,
        "max": max(one["max"] for one in values.values()),
        "last": values[max(values)]["last"],
    }
    told = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    return f"{sparkline(over)}  {show} by {step} s; {told}"


def sparkline(values: Sequence[float | None]) -> str:
    """A bar for each, from the lowest to the highest; nothing is a space."""
    there = [value for value in values if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else BARS[round((value - low) * scale)] for value in values)


def _follow(what: str, after: int, given: Row) -> Iterator[Row]:
    while True:
        client = Client()
        for _ in range(CALLS):
            for row in client.get(f"/{what}", after=after, limit=1000, **given):
                after = row["id"]
                yield row
            time.sleep(POLL_S)


def _newest(what: str) -> int:
    """The id of the last row of all."""
    rows = Client().get(f"/{what}", limit=1)
    return int(rows[0]["id"]) if rows else 0


def _show(row: Row, as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    told = (when(row["at"]), row["node"] or "-", _plain(row["kind"]), _plain(_body(row["body"])))
    print("\t".join(told), flush=True)


def _body(body: Row) -> str:
    """What a line of a log says first, then the rest as key=value."""
    said = [str(body["event"])] if "event" in body else []
    rest = (f"{key}={as_typed(value)}" for key, value in body.items() if key != "event")
    return " ".join([*said, *rest])


def _plain(text: str) -> str:
    """Without what a terminal would take for orders."""
    return "".join(one if one.isprintable() else " " for one in text)


def _since(text: str | None) -> float | None:
    return None if text is None else time.time() - pairs.seconds("--since", text)
