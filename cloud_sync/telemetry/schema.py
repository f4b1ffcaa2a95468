"""The file of the node's telemetry. It is opened, and set aside where damaged, as the node's database is."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from sqlite_utils import Database, Migrations

from cloud_sync import schema
from cloud_sync.telemetry.rows import STREAMS

WAL_PAGES = 250  # after which the log goes into the file: the quota is on both

migrations = Migrations("telemetry")


@migrations(name="0001_rows")
def _rows(db: Database) -> None:
    db.execute("""
        CREATE TABLE streams (
            stream TEXT PRIMARY KEY,
            last INTEGER NOT NULL DEFAULT 0,            -- the newest seq: none is given twice
            offered INTEGER NOT NULL DEFAULT 0,         -- up to here the controller may have it: not changed
            given_up INTEGER NOT NULL DEFAULT 0         -- rows, ever
        ) STRICT, WITHOUT ROWID""")
    for stream in STREAMS:
        db.execute("INSERT INTO streams (stream) VALUES (?)", (stream,))
    db.execute("""
        CREATE TABLE rows (
            stream TEXT NOT NULL REFERENCES streams (stream),
            seq INTEGER NOT NULL,
            first INTEGER NOT NULL,                     -- it stands for all from here to seq
            at REAL NOT NULL,                           -- wall time
            kind TEXT NOT NULL,
            body TEXT NOT NULL,                         -- JSON
            worth INTEGER NOT NULL,                     -- see rows.Worth
            key TEXT,                                   -- what is of one key is one row; NULL: it is alone
            UNIQUE (stream, seq)
        ) STRICT""")
    db.execute("CREATE INDEX rows_worth ON rows (stream, worth, seq)")
    db.execute("CREATE INDEX rows_key ON rows (key, seq) WHERE key IS NOT NULL")
    db.execute("CREATE TABLE database (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL) STRICT")
    db.execute("INSERT INTO database VALUES (1, ?)", (new_id(),))


def new_id() -> str:
    return secrets.token_hex(8)


def prepare(path: Path) -> Path | None:
    """As `cloud_sync.schema.prepare` does."""
    return schema.prepare(path, migrations)


def connect(path: Path) -> sqlite3.Connection:
    db = schema.connect(path)
    db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    return db
