"""What goes where the quota presses: minutes become hours, then the least valuable is given up.

What was offered to the controller is left alone: it may be there already, and will go soon.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from cloud_sync.messages import Stream
from cloud_sync.schema import give_back
from cloud_sync.telemetry.rows import Worth
from cloud_sync.telemetry.schema import of

HOUR_S = 3600
AT_ONCE = 64  # rows that are given up in one step
STEPS = 64  # in one transaction, which the write-ahead log must hold
PAGES = 500  # that are given back in one
FILE_SHARE = 7 / 8  # of the quota; the rest is for the write-ahead log
ENOUGH = 31 / 32  # of that: room is made for a while
ORDER: tuple[tuple[Stream, Worth], ...] = (
    ("samples", Worth.LEAST),
    ("logs", Worth.LEAST),
    ("metrics", Worth.MORE),
    ("metrics", Worth.LEAST),
    ("events", Worth.LEAST),
    ("events", Worth.MORE),  # the disk has an end
)


def make(quota: int, db: sqlite3.Connection) -> None:
    """`quota`: bytes."""
    most = quota * FILE_SHARE
    used, free = _size(db)
    steps = STEPS if used > most else 0
    while steps and _size(db)[0] > most * ENOUGH:
        if not (_to_hours(db) or any(_give_up_some(stream, worth, db) for stream, worth in ORDER)):
            break
        steps -= 1
    if used + free > most:
        give_back(db, PAGES)


def give_up(stream: Stream, seqs: Sequence[int], db: sqlite3.Connection) -> None:
    """Gaps take the place of these rows, which are in order; one gap of those that touch."""
    for seq in seqs:
        [(first, at)] = db.execute(
            of(stream, "SELECT coalesce(first, seq), at FROM $ WHERE seq = ?"), (seq,)
        ).fetchall()
        lost, last, until = seq - first + 1, seq, at
        before, after = _gaps(stream, first - 2, db), _gaps(stream, seq, db)
        if before and before[0] == first - 1:
            first, at = before[1], before[2]
        if after and after[1] == seq + 1:
            last, until = after[0], json.loads(after[3])["until"]
        db.execute(of(stream, "DELETE FROM $ WHERE seq BETWEEN ? AND ?"), (first, last))
        db.execute(
            of(stream, "INSERT INTO $ VALUES (?, ?, ?, 'gap', ?, ?, NULL)"),
            (last, first, at, dumped({"until": until}), Worth.GAP),
        )
        db.execute("UPDATE streams SET given_up = given_up + ? WHERE stream = ?", (lost, stream))


def dumped(body: dict[str, Any]) -> str:
    """As JSON; what cannot be there becomes text that can."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return text.encode("utf-8", "replace").decode()


def merged(minutes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bodies of metrics, in order of time, as one: `[count, sum, min, max, last]` of each series."""
    series: dict[str, list[float]] = {}
    for minute in minutes:
        for name, new in minute["series"].items():
            if (old := series.get(name)) is None:
                series[name] = list(new)
            else:
                old[:] = [old[0] + new[0], old[1] + new[1], min(old[2], new[2]), max(old[3], new[3]), new[4]]
    return {"period_s": sum(minute["period_s"] for minute in minutes), "series": series}


def _gaps(stream: Stream, after: int, db: sqlite3.Connection) -> tuple[int, int, float, str] | None:
    """The first that ends there, and was not offered: seq, first, at, body."""
    found: tuple[int, int, float, str] | None = db.execute(
        of(stream, "SELECT seq, first, at, body FROM $ WHERE worth = ? AND seq > ? ORDER BY seq LIMIT 1"),
        (Worth.GAP, max(after, _offered(stream, db))),
    ).fetchone()
    return found


def _size(db: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the file that hold something, and that are free."""
    (size,), (pages,), (free,) = (
        db.execute(f"PRAGMA {what}").fetchone() for what in ("page_size", "page_count", "freelist_count")
    )
    return size * (pages - free), size * free


def _to_hours(db: sqlite3.Connection) -> bool:
    """Let the oldest hour's minutes be one row; False: there are none but those of the hour that goes on."""
    hour: list[tuple[int, int, float, str]] = []
    for row in db.execute(
        "SELECT seq, coalesce(first, seq), at, body FROM metrics WHERE worth = ? AND seq > ? ORDER BY seq",
        (Worth.LEAST, _offered("metrics", db)),
    ):
        if hour and (row[2] // HOUR_S != hour[0][2] // HOUR_S or row[1] != hour[-1][0] + 1):
            break
        hour.append(row)
    else:
        return False
    first, last = hour[0], hour[-1]
    try:
        body = merged([json.loads(row[3]) for row in hour])
    except ValueError:  # one of them is damaged
        give_up("metrics", [row[0] for row in hour], db)
        return True
    db.execute("DELETE FROM metrics WHERE seq BETWEEN ? AND ?", (first[0], last[0]))
    db.execute(
        "INSERT INTO metrics VALUES (?, ?, ?, 'hour', ?, ?, NULL)",
        (last[0], first[1], first[2], dumped(body), Worth.MORE),
    )
    return True


def _give_up_some(stream: Stream, worth: Worth, db: sqlite3.Connection) -> bool:
    """The oldest; False: there are none."""
    seqs = db.execute(
        of(stream, "SELECT seq FROM $ WHERE worth = ? AND seq > ? ORDER BY seq LIMIT ?"),
        (worth, _offered(stream, db), AT_ONCE),
    ).fetchall()
    give_up(stream, [seq for (seq,) in seqs], db)
    return bool(seqs)


def _offered(stream: Stream, db: sqlite3.Connection) -> int:
    [(offered,)] = db.execute("SELECT offered FROM streams WHERE stream = ?", (stream,)).fetchall()
    return int(offered)
