"""How the node's database is opened and what is in it. Migrations are numbered and recorded in it.

A file that SQLite finds damaged is set aside beside its successor, never deleted: the agent must serve, and
what was in the file can still be looked for (`sqlite3 FILE .recover`). The caller is told, to say it loudly.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlite_utils import Database, Migrations

from cloud_sync import kept

WAL_BYTES = 16 * 1024 * 1024  # what the write-ahead log is cut back to

migrations = Migrations("state")


@migrations(name="0001_prompts")
def _prompts(db: Database) -> None:
    # AUTOINCREMENT: a number is never used twice, so that "after this one" always means "newer".
    db.execute("""
        CREATE TABLE inbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,      -- arrival order
            sender TEXT NOT NULL,                       -- '' where the topic named none
            id TEXT NOT NULL,
            digest BLOB NOT NULL,                       -- SHA-256 of the body
            body BLOB,                                  -- NULL once finished
            state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done')),
            runs INTEGER NOT NULL DEFAULT 0,            -- how often it was begun, counted before it runs
            lives INTEGER NOT NULL DEFAULT 0,           -- Workers that died while it ran
            received_at REAL NOT NULL,                  -- node time, see State.now
            finished_at REAL,
            UNIQUE (sender, id)
        ) STRICT""")
    db.execute("CREATE INDEX inbox_waiting ON inbox (seq, sender) WHERE state = 'waiting'")
    db.execute("CREATE INDEX inbox_finished ON inbox (finished_at) WHERE finished_at IS NOT NULL")
    db.execute("""
        CREATE TABLE addresses (                        -- who waits for a prompt that is not finished
            inbox_seq INTEGER NOT NULL REFERENCES inbox (seq),
            topic TEXT NOT NULL,
            correlation BLOB NOT NULL,                  -- empty: none
            acks INTEGER NOT NULL,                      -- whether the receiver sends the id to `acks`
            expires_at REAL,                            -- node time; NULL: when the result itself goes
            PRIMARY KEY (inbox_seq, topic, correlation)
        ) STRICT, WITHOUT ROWID""")
    db.execute("""
        CREATE TABLE results (
            inbox_seq INTEGER PRIMARY KEY REFERENCES inbox (seq),
            payload BLOB NOT NULL                       -- the bytes as they were published
        ) STRICT""")
    db.execute("""
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,      -- in the order of publication
            inbox_seq INTEGER REFERENCES inbox (seq),   -- its result is what to publish; else `payload` is
            payload BLOB,
            topic TEXT NOT NULL,
            correlation BLOB NOT NULL,
            acks INTEGER NOT NULL,
            expires_at REAL NOT NULL,
            UNIQUE (inbox_seq, topic, correlation)
        ) STRICT""")
    db.execute("CREATE INDEX outbox_expiry ON outbox (expires_at)")
    db.execute("CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), elapsed REAL NOT NULL) STRICT")
    db.execute("INSERT INTO clock VALUES (1, 0)")


@migrations(name="0002_turns")
def _turns(db: Database) -> None:
    db.execute("DROP INDEX inbox_waiting")
    db.execute("CREATE INDEX inbox_waiting ON inbox (sender, seq) WHERE state = 'waiting'")
    db.execute("CREATE INDEX inbox_running ON inbox (sender) WHERE state = 'running'")
    # The number of the latest attempt: unlike `runs`, it never falls once a token of it may be out.
    db.execute("ALTER TABLE inbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE inbox SET attempts = runs + lives WHERE state != 'done'")


@migrations(name="0003_tensors")
def _tensors(db: Database) -> None:
    # The Model of a body of tensors, as its topic named it; NULL: a prompt, whose body names its own.
    db.execute("ALTER TABLE inbox ADD COLUMN model TEXT")
    for table in ("inbox", "results"):  # bytes of JSON, where raw tensors follow; NULL: it is all JSON
        db.execute(f"ALTER TABLE {table} ADD COLUMN header_length INTEGER")
    db.execute("DROP INDEX inbox_waiting")
    db.execute("CREATE INDEX inbox_waiting ON inbox (sender, seq, model) WHERE state = 'waiting'")


def prepare(path: Path, schema: Migrations = migrations) -> Path | None:
    """Make `path` a sound database of that schema; where a damaged one was in the way, the name it has now.

    Raises sqlite3.OperationalError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)  # prompts are nobody else's business
    try:
        _migrate(path, schema)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        aside = _set_aside(path)
        _migrate(path, schema)
        return aside
    return None


def _migrate(path: Path, schema: Migrations) -> None:
    db = connect(path)
    try:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        schema.apply(Database(db))
    finally:
        db.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may write. The caller opens transactions itself."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if db.execute("PRAGMA auto_vacuum").fetchone() != (2,):  # to set it again would write
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before WAL, or it is ignored
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        # After a failed fsync the log may be whole in memory and torn on disk: start from an empty one.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error:
        db.close()
        raise
    return db


def give_back(db: sqlite3.Connection, most: int) -> None:
    """Let the file be as small as what is in it; so many pages at a call."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, most)):  # through Python's sqlite3, each call gives one page back
        db.execute("PRAGMA incremental_vacuum(1)")


def _set_aside(path: Path) -> Path:
    aside = kept.aside_of(path)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
