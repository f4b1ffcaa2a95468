"""The transactions on prompts, results and the outbox: plain functions of a connection inside a transaction.

`now` is node time (see State.now), in seconds. Each is fit to run twice: after a failed commit nobody knows
whether the disk has it.
"""

from __future__ import annotations

import enum
import heapq
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

MAX_LIVES = 3  # Workers that one prompt may cost
MAX_RUNS = 5  # begun so often and never finished: it ends the agent itself
PURGE_ROWS = 500  # in one transaction, so that no other waits long behind it
PURGE_PAGES = 2000
_SENDERS = """
    WITH RECURSIVE senders (sender) AS (  -- one look into the index for each, however many wait
        SELECT min(sender) FROM inbox WHERE state = 'waiting'
        UNION ALL
        SELECT (SELECT min(sender) FROM inbox WHERE state = 'waiting' AND sender > senders.sender)
        FROM senders WHERE sender IS NOT NULL
    )
    SELECT sender, (SELECT min(seq) FROM inbox WHERE state = 'waiting' AND sender = senders.sender)
    FROM senders WHERE sender IS NOT NULL"""
_PROMPT = "SELECT seq, sender, id, body, received_at, runs + 1, lives, attempts + 1 FROM inbox WHERE seq = ?"
_NEXT = "SELECT min(seq) FROM inbox WHERE state = 'waiting' AND sender = ? AND seq > ?"


class Accepted(enum.Enum):
    """What became of a prompt that arrived."""

    NEW = "new"  # committed: it will be answered
    RUNNING = "running"  # the same again, not finished yet
    DONE = "done"  # the same again: its result is published again, byte for byte
    CONFLICT = "conflict"  # this id was given to another body; nothing was changed


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer goes."""

    topic: str
    correlation: bytes = b""
    acks: bool = False  # it stays in the outbox until the receiver says that it has it
    expires_in: float | None = None  # seconds from now; None: as long as results are kept


@dataclass(frozen=True, slots=True)
class Prompt:
    """A claimed inbox row."""

    seq: int
    sender: str
    id: str
    body: bytes
    received_at: float  # node time
    runs: int  # this one included
    lives: int
    attempts: int  # this one included; never used twice once a token of it may be out

    @property
    def spent(self) -> bool:
        """It has ended too many Workers or agents: it must not run again."""
        return self.lives >= MAX_LIVES or self.runs > MAX_RUNS


@dataclass(frozen=True, slots=True)
class Parcel:
    """An outbox row with what to publish."""

    seq: int
    topic: str
    correlation: bytes
    payload: bytes
    acks: bool


@dataclass(frozen=True, slots=True)
class Known:
    """An id whose receivers must not be disturbed: if it is in the inbox, a message goes `elsewhere`."""

    sender: str
    id: str
    elsewhere: str  # topic


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows a purge took: results past their time, and messages that no receiver took in time."""

    results: int
    undelivered: int


def accept(
    sender: str, id: str, body: bytes, address: Address, keep_s: float, now: float, db: sqlite3.Connection
) -> Accepted:
    digest = sha256(body).digest()
    found = db.execute(
        "SELECT seq, digest, state FROM inbox WHERE sender = ? AND id = ?", (sender, id)
    ).fetchone()
    if found is None:
        [(seq,)] = db.execute(
            "INSERT INTO inbox (sender, id, digest, body, received_at) VALUES (?, ?, ?, ?, ?) RETURNING seq",
            (sender, id, digest, body, now),
        ).fetchall()
        _wait(db, seq, address, now)
        return Accepted.NEW
    seq, known, state = found
    if known != digest:
        return Accepted.CONFLICT
    if state != "done":
        _wait(db, seq, address, now)
        return Accepted.RUNNING
    _owe(db, address, seq, None, keep_s, now)
    return Accepted.DONE


def claim(limit: int, most_bytes: int, held: tuple[str, ...], db: sqlite3.Connection) -> list[Prompt]:
    """In turn: next is always a sender with the fewest running, of those the one that waits longest."""
    running = dict(db.execute("SELECT sender, count(*) FROM inbox WHERE state = 'running' GROUP BY sender"))
    turns = [
        (running.get(sender, 0), seq, sender) for sender, seq in db.execute(_SENDERS) if sender not in held
    ]
    heapq.heapify(turns)
    prompts: list[Prompt] = []
    while turns and len(prompts) < limit:
        turn, seq, sender = heapq.heappop(turns)
        prompt = Prompt(*db.execute(_PROMPT, (seq,)).fetchone())
        most_bytes -= len(prompt.body)
        if most_bytes < 0 and (running or prompts):  # alone, a body of any size may run
            break
        prompts.append(prompt)
        (after,) = db.execute(_NEXT, (sender, seq)).fetchone()
        if after is not None:
            heapq.heappush(turns, (turn + 1, after, sender))
    seqs = [(prompt.seq,) for prompt in prompts]
    db.executemany(
        "UPDATE inbox SET state = 'running', runs = runs + 1, attempts = attempts + 1 WHERE seq = ?", seqs
    )
    return prompts


def release(seqs: tuple[int, ...], begun: bool, db: sqlite3.Connection) -> None:
    db.executemany(
        "UPDATE inbox SET state = 'waiting', runs = runs - 1, attempts = attempts - ?"
        " WHERE seq = ? AND state = 'running'",
        [(not begun, seq) for seq in seqs],
    )


def resume(running: tuple[int, ...], db: sqlite3.Connection) -> int:
    return db.execute(
        "UPDATE inbox SET state = 'waiting' WHERE state = 'running'"
        " AND seq NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(running),),
    ).rowcount


def began_again(seq: int, attempts: int, deaths: int, db: sqlite3.Connection) -> int:
    [(lives,)] = db.execute(
        "UPDATE inbox SET attempts = attempts + ?, lives = lives + ? WHERE seq = ? RETURNING lives",
        (attempts, deaths, seq),
    ).fetchall()
    return int(lives)


def finish(seq: int, payload: bytes, keep_s: float, now: float, db: sqlite3.Connection) -> bool:
    if db.execute("INSERT OR IGNORE INTO results VALUES (?, ?)", (seq, payload)).rowcount == 0:
        return False
    db.execute("UPDATE inbox SET state = 'done', body = NULL, finished_at = ? WHERE seq = ?", (now, seq))
    latest = now + keep_s
    db.execute(
        "INSERT OR REPLACE INTO outbox (inbox_seq, topic, correlation, acks, expires_at)"
        " SELECT inbox_seq, topic, correlation, acks, min(coalesce(expires_at, ?), ?)"
        " FROM addresses WHERE inbox_seq = ?",
        (latest, latest, seq),
    )
    db.execute("DELETE FROM addresses WHERE inbox_seq = ?", (seq,))
    return True


def post(
    address: Address, payload: bytes, unless: Known | None, keep_s: float, now: float, db: sqlite3.Connection
) -> None:
    if unless is not None:
        found = db.execute("SELECT 1 FROM inbox WHERE sender = ? AND id = ?", (unless.sender, unless.id))
        if found.fetchone():
            address = replace(address, topic=unless.elsewhere)
    _owe(db, address, None, payload, keep_s, now)


def due(after: int, limit: int, now: float, db: sqlite3.Connection) -> list[Parcel]:
    rows = db.execute(
        "SELECT outbox.seq, topic, correlation, coalesce(outbox.payload, results.payload), acks"
        " FROM outbox LEFT JOIN results USING (inbox_seq)"
        " WHERE outbox.seq > ? AND expires_at > ? ORDER BY outbox.seq LIMIT ?",
        (after, now, limit),
    )
    return [Parcel(seq, topic, data, payload, bool(acks)) for seq, topic, data, payload, acks in rows]


def delivered(seq: int, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM outbox WHERE seq = ? AND NOT acks", (seq,))


def acknowledged(sender: str, ids: Iterable[str], db: sqlite3.Connection) -> int:
    return db.executemany(
        "DELETE FROM outbox WHERE inbox_seq = (SELECT seq FROM inbox WHERE sender = ? AND id = ?)",
        [(sender, id) for id in ids],
    ).rowcount


def purge(keep_s: float, now: float, db: sqlite3.Connection) -> Purged:
    keep_time(now, db)
    late = db.execute(
        "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE expires_at <= ? LIMIT ?)",
        (now, PURGE_ROWS),
    ).rowcount
    old = db.execute(
        "SELECT seq FROM inbox WHERE finished_at <= ? AND NOT EXISTS"
        " (SELECT 1 FROM outbox WHERE outbox.inbox_seq = inbox.seq) LIMIT ?",
        (now - keep_s, PURGE_ROWS),
    ).fetchall()
    db.executemany("DELETE FROM results WHERE inbox_seq = ?", old)
    db.executemany("DELETE FROM inbox WHERE seq = ?", old)
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, PURGE_PAGES)):  # through Python's sqlite3, each call gives one page back
        db.execute("PRAGMA incremental_vacuum(1)")
    return Purged(results=len(old), undelivered=late)


def keep_time(now: float, db: sqlite3.Connection) -> None:
    db.execute("UPDATE clock SET elapsed = ?", (now,))


def latest_time(db: sqlite3.Connection) -> float:
    """The latest node time that the database knows of."""
    (latest,) = db.execute(
        "SELECT max((SELECT elapsed FROM clock),"
        " coalesce((SELECT received_at FROM inbox ORDER BY seq DESC LIMIT 1), 0),"
        " coalesce((SELECT max(finished_at) FROM inbox), 0))"
    ).fetchone()
    return float(latest)


def counts(db: sqlite3.Connection) -> dict[str, int]:
    states = db.execute("SELECT state, count(*) FROM inbox WHERE state != 'done' GROUP BY state").fetchall()
    (outbox,) = db.execute("SELECT count(*) FROM outbox").fetchone()
    return {"waiting": 0, "running": 0, **dict(states), "outbox": outbox}


def _wait(db: sqlite3.Connection, seq: int, address: Address, now: float) -> None:
    expires = None if address.expires_in is None else now + address.expires_in
    row = (seq, address.topic, address.correlation, address.acks, expires)
    db.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?, ?)", row)


def _owe(
    db: sqlite3.Connection,
    address: Address,
    seq: int | None,
    payload: bytes | None,
    keep_s: float,
    now: float,
) -> None:
    # REPLACE gives the row a new number, so that what was published once is published again.
    expires = now + (keep_s if address.expires_in is None else min(address.expires_in, keep_s))
    db.execute(
        "INSERT OR REPLACE INTO outbox (inbox_seq, payload, topic, correlation, acks, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (seq, payload, address.topic, address.correlation, address.acks, expires),
    )
