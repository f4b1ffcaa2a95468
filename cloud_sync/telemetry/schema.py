"""The file of the node's telemetry. It is opened, and set aside where damaged, as the node's database is."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from sqlite_utils import Database, Migrations

from cloud_sync import schema
from cloud_sync.messages import Stream
from cloud_sync.telemetry.rows import STREAMS

WAL_PAGES, WAL_BYTES = 250, 2 << 20  # after which the log goes into the file; what it is cut back to

migrations = Migrations("telemetry")


@migrations(name="0001_streams")
def _streams(db: Database) -> None:
    # A table a stream: the oldest of it lie together, and give whole pages back when they go.
    for stream in STREAMS:
        db.execute(f"""
            CREATE TABLE {stream} (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- none is given twice
                first INTEGER,                          -- it stands for all since this; NULL: for itself
                at REAL NOT NULL,                       -- wall time
                kind TEXT NOT NULL,
                body TEXT NOT NULL,                     -- JSON
                worth INTEGER NOT NULL,                 -- see rows.Worth
                key TEXT                                -- what is of one key is one row; NULL: it is alone
            ) STRICT""")
        db.execute(f"CREATE INDEX {stream}_worth ON {stream} (worth, seq)")
    db.execute("CREATE INDEX events_key ON events (key, seq) WHERE key IS NOT NULL")
    db.execute("""
        CREATE TABLE streams (
            stream TEXT PRIMARY KEY,
            offered INTEGER NOT NULL DEFAULT 0,         -- up to here the controller may have it: not changed
            given_up INTEGER NOT NULL DEFAULT 0         -- rows, ever
        ) STRICT, WITHOUT ROWID""")
    for stream in STREAMS:
        db.execute("INSERT INTO streams (stream) VALUES (?)", (stream,))
    db.execute("""
        CREATE TABLE database (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            id TEXT NOT NULL,
            fleet TEXT                                  -- whose business this is; NULL: nobody's yet
        ) STRICT""")
    db.execute("INSERT INTO database (one, id) VALUES (1, ?)", (new_id(),))


def of(stream: Stream, sql: str) -> str:
    """With the stream's table for `$`."""
    return sql.replace("$", stream)


def new_id() -> str:
    return secrets.token_hex(8)


def prepare(path: Path) -> Path | None:
    """As `cloud_sync.schema.prepare` does."""
    return schema.prepare(path, migrations)


def connect(path: Path) -> sqlite3.Connection:
    db = schema.connect(path)
    db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
    return db
