"""The transactions on prompts, results and the outbox: plain functions of a connection inside a transaction.

`now` is node time (see State.now), in seconds. Each is fit to run twice: after a failed commit nobody knows
whether the disk has it.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

from cloud_sync.rows import Accepted, Address, Known, Parcel, Prompt, Purged
from cloud_sync.schema import give_back

PURGE_ROWS = 500  # in one transaction, so that no other waits long behind it
PURGE_PAGES = 2000
_SENDERS = """
    WITH RECURSIVE senders (sender) AS (  -- one look into the index for each, however many wait
        SELECT min(sender) FROM inbox WHERE state = 'waiting' AND iif(model IS NULL, :prompts, :tensors)
        UNION ALL
        SELECT (
            SELECT min(sender) FROM inbox
            WHERE state = 'waiting' AND iif(model IS NULL, :prompts, :tensors) AND sender > senders.sender
        ) FROM senders WHERE sender IS NOT NULL
    )
    SELECT sender, (
        SELECT min(seq) FROM inbox
        WHERE state = 'waiting' AND iif(model IS NULL, :prompts, :tensors) AND sender = senders.sender
    ) FROM senders WHERE sender IS NOT NULL"""
_NEXT = """
    SELECT min(seq) FROM inbox
    WHERE state = 'waiting' AND iif(model IS NULL, :prompts, :tensors)
        AND sender = :sender AND seq > :after"""
_PROMPT = """
    SELECT seq, sender, id, body, received_at, runs + 1, lives, attempts + 1, model, header_length
    FROM inbox WHERE seq = ?"""


def accept(
    sender: str,
    id: str,
    body: bytes,
    model: str | None,
    header_length: int | None,
    address: Address,
    keep_s: float,
    now: float,
    db: sqlite3.Connection,
) -> Accepted:
    asked = (sha256(body).digest(), model, header_length)
    found = db.execute(
        "SELECT seq, state, digest, model, header_length FROM inbox WHERE sender = ? AND id = ?", (sender, id)
    ).fetchone()
    if found is None:
        [(seq,)] = db.execute(
            "INSERT INTO inbox (sender, id, body, received_at, digest, model, header_length)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING seq",
            (sender, id, body, now, *asked),
        ).fetchall()
        _wait(db, seq, address, now)
        return Accepted.NEW
    seq, state, *known = found
    if tuple(known) != asked:
        return Accepted.CONFLICT
    if state != "done":
        _wait(db, seq, address, now)
        return Accepted.RUNNING
    _owe(db, address, seq, None, keep_s, now)
    return Accepted.DONE


def claim(
    limit: int, most_bytes: int, held: tuple[str, ...], kinds: dict[str, bool], db: sqlite3.Connection
) -> list[Prompt]:
    """In turn: next is always a sender with the fewest running, of those the one that waits longest."""
    running = dict(db.execute("SELECT sender, count(*) FROM inbox WHERE state = 'running' GROUP BY sender"))
    waiting = db.execute(_SENDERS, kinds)
    turns = [(running.get(sender, 0), seq, sender) for sender, seq in waiting if sender not in held]
    heapq.heapify(turns)
    prompts: list[Prompt] = []
    while turns and len(prompts) < limit:
        turn, seq, sender = heapq.heappop(turns)
        prompt = Prompt(*db.execute(_PROMPT, (seq,)).fetchone())
        most_bytes -= len(prompt.body)
        if most_bytes < 0 and (running or prompts):  # alone, a body of any size may run
            break
        prompts.append(prompt)
        (after,) = db.execute(_NEXT, {**kinds, "sender": sender, "after": seq}).fetchone()
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


def finish(
    seq: int, payload: bytes, header_length: int | None, keep_s: float, now: float, db: sqlite3.Connection
) -> bool:
    kept = db.execute(
        "INSERT OR IGNORE INTO results (inbox_seq, payload, header_length) VALUES (?, ?, ?)",
        (seq, payload, header_length),
    )
    if kept.rowcount == 0:
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
        "SELECT outbox.seq, topic, correlation, coalesce(outbox.payload, results.payload), header_length,"
        " acks FROM outbox LEFT JOIN results USING (inbox_seq)"
        " WHERE outbox.seq > ? AND expires_at > ? ORDER BY outbox.seq LIMIT ?",
        (after, now, limit),
    )
    return [
        Parcel(seq, topic, data, payload, length, bool(acks))
        for seq, topic, data, payload, length, acks in rows
    ]


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
    give_back(db, PURGE_PAGES)
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
