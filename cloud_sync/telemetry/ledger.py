"""The transactions on telemetry: plain functions of a connection inside a transaction.

Of each stream, what waits covers all numbers from the oldest to the last that was given, without a hole.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping

from cloud_sync.messages import Row, Stream, Telemetry
from cloud_sync.schema import give_back
from cloud_sync.telemetry import room
from cloud_sync.telemetry.rows import GAP, STREAMS, Backlog, Entry
from cloud_sync.telemetry.schema import new_id, of

COALESCED_S = 3600.0  # within which what is of one key is one row
MOST_ROWS = 2000  # of a stream in a batch
ROW_BYTES = 60  # of a row beside its body, about


def belong(fleet: str, db: sqlite3.Connection) -> bool:
    """What was written for another fleet goes: it is not this one's business. Whether it was another's."""
    [(former,)] = db.execute("SELECT fleet FROM database").fetchall()
    if former == fleet:
        return False
    if former is not None:
        for stream in STREAMS:
            db.execute(of(stream, "DELETE FROM $"))
        db.execute("DELETE FROM sqlite_sequence")
        db.execute("UPDATE streams SET offered = 0")
        db.execute("UPDATE database SET id = ?", (new_id(),))
    db.execute("UPDATE database SET fleet = ?", (fleet,))
    return former is not None


def append(entries: Iterable[Entry], quota: int, db: sqlite3.Connection) -> None:
    """`quota`: bytes of the file, for which room is made."""
    for entry in entries:
        if not _coalesced(entry, db):
            _insert(entry, db)
    room.make(quota, db)


class _Damaged(Exception):
    """A row's text is not what was written: SQLite finds nothing wrong with that."""

    def __init__(self, stream: Stream, seq: int) -> None:
        super().__init__(stream, seq)
        self.stream, self.seq = stream, seq


def offer(most_bytes: int, again: bool, told: Mapping[Stream, int], db: sqlite3.Connection) -> Telemetry:
    """The oldest rows of each stream, the most valuable streams first. What is offered stays as it is.

    `again`: of what was offered before alone. `told`: up to where the controller said to have it all; what is
    neither there nor here any longer is told as a gap.
    """
    while True:
        try:
            return _offered(most_bytes, again, told, db)
        except _Damaged as error:
            room.give_up(error.stream, [error.seq], db)


def _offered(most_bytes: int, again: bool, told: Mapping[Stream, int], db: sqlite3.Connection) -> Telemetry:
    streams: dict[Stream, list[Row]] = {}
    for stream in STREAMS:
        last = _numbers(stream, db)[1] if again else 1 << 62
        found: list[Row] = []
        for row in db.execute(
            of(stream, "SELECT seq, first, at, kind, body FROM $ WHERE seq <= ? ORDER BY seq LIMIT ?"),
            (last, MOST_ROWS - 1),
        ):
            most_bytes -= len(row[-1]) + ROW_BYTES
            if most_bytes < 0 and (found or streams):
                break
            found.append(_row(stream, *row))
        if found:
            newest = found[-1].seq
            db.execute("UPDATE streams SET offered = max(offered, ?) WHERE stream = ?", (newest, stream))
            streams[stream] = _since(told.get(stream), found)
    [(id,)] = db.execute("SELECT id FROM database").fetchall()
    return Telemetry(database=id, sent_at=0.0, streams=streams)


def received(marks: Mapping[Stream, int], db: sqlite3.Connection) -> int:
    """The controller has it up to these: it goes. How many rows went."""
    gone = 0
    for stream, mark in marks.items():
        offered = _numbers(stream, db)[1]
        if mark > offered:  # this file is an old copy of itself: its numbers are used already
            db.execute("UPDATE database SET id = ?", (new_id(),))
            return 0
        gone += db.execute(of(stream, "DELETE FROM $ WHERE seq <= ?"), (mark,)).rowcount
    give_back(db, room.PAGES)
    return gone


def refuse(stream: Stream, seq: int, db: sqlite3.Connection) -> None:
    """The controller will never take this row, which was offered: a gap takes its place."""
    room.give_up(stream, [seq], db)


def backlog(db: sqlite3.Connection) -> Backlog:
    told, oldest = Backlog(), []
    for stream in STREAMS:
        [(told.rows[stream],)] = db.execute(of(stream, "SELECT count(*) FROM $")).fetchall()
        oldest += db.execute(of(stream, "SELECT at FROM $ ORDER BY seq LIMIT 1")).fetchall()
    told.given_up.update(db.execute("SELECT stream, given_up FROM streams").fetchall())
    return Backlog(told.rows, told.given_up, min((at for (at,) in oldest), default=None))


def _since(known: int | None, rows: list[Row]) -> list[Row]:
    """With a gap before them, where the controller knows less than what went from here."""
    begins = rows[0].first or rows[0].seq
    if known is None or known + 1 >= begins:
        return rows
    return [Row(seq=begins - 1, first=known + 1, at=rows[0].at, kind=GAP, body={"why": "not kept"}), *rows]


def _coalesced(entry: Entry, db: sqlite3.Connection) -> bool:
    """Count it with the one before of its key, if that is of this hour and nobody was told of it yet."""
    if entry.key is None or entry.stream != "events":
        return False
    found = db.execute(
        "SELECT seq, at, body FROM events WHERE key = ? AND seq > ? ORDER BY seq DESC LIMIT 1",
        (entry.key, _numbers("events", db)[1]),
    ).fetchone()
    if found is None or abs(entry.at - found[1]) >= COALESCED_S:
        return False
    try:
        count = json.loads(found[2]).get("count", 1) + 1
    except ValueError:  # it is damaged
        return False
    body = {**entry.body, "count": count, "last_at": entry.at}
    db.execute("UPDATE events SET body = ? WHERE seq = ?", (room.dumped(body), found[0]))
    return True


def _insert(entry: Entry, db: sqlite3.Connection) -> None:
    db.execute(
        of(entry.stream, "INSERT INTO $ (at, kind, body, worth, key) VALUES (?, ?, ?, ?, ?)"),
        (entry.at, entry.kind, room.dumped(entry.body), entry.worth, entry.key),
    )


def _numbers(stream: Stream, db: sqlite3.Connection) -> tuple[int, int]:
    """The last that was given, and that was offered."""
    last, offered = db.execute(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = stream), 0), offered"
        " FROM streams WHERE stream = ?",
        (stream,),
    ).fetchone()
    return last, offered


def _row(stream: Stream, seq: int, first: int | None, at: float, kind: str, body: str) -> Row:
    try:
        return Row(seq=seq, first=first, at=at, kind=kind, body=json.loads(body))
    except ValueError:
        raise _Damaged(stream, seq) from None
