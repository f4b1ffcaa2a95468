"""The file of a backup: gzip of JSON, a line each.

{"format": 1, "revision": ..., "made_at": ..., "keys": {...}}
{"table": "nodes", "columns": [...]}   then its rows, an array each; so for every table
{"rows": 12345}                        the end: a file without it is not whole
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from models.disk import replacing

FORMAT = 1
KEYS = ("ca.pem", "signing.key", "ca.key")
"""In the order in which they are put down: with the last one the folder is a controller's."""


class Failed(Exception):
    """No backup was made, or nothing was restored."""


class BadBackup(Failed):
    """The file is none, or not whole, or of a release that is newer than this one."""


class Header(BaseModel):
    format: int
    revision: str
    """Of the tables."""
    made_at: float
    """Wall time, in seconds."""
    keys: dict[str, str]


Line = tuple[str, Sequence[str], Iterator[Sequence[Any]]]
"""A table: its name, its columns, its rows."""


def write(path: Path, header: Header, tables: Iterable[Line]) -> int:
    """How many rows. For its owner's eyes alone; whole or not there. OSError."""
    count = 0
    with replacing(path, 0o600) as raw, gzip.open(raw, "wt", 6, encoding="utf-8") as file:
        file.write(header.model_dump_json() + "\n")
        for name, columns, rows in tables:
            file.write(json.dumps({"table": name, "columns": columns}) + "\n")
            for row in rows:
                file.write(json.dumps(row) + "\n")
                count += 1
        file.write(json.dumps({"rows": count}) + "\n")
    return count


class Reader:
    """Reads a file once, from its beginning to its end. Every method raises BadBackup and OSError."""

    def __init__(self, path: Path) -> None:
        self._lines = _lines(path)
        first = next(self._lines, None)
        try:
            self.header = Header.model_validate(first)
        except ValidationError:
            raise BadBackup(f"{path} is no backup of a controller") from None
        if self.header.format != FORMAT or set(self.header.keys) != set(KEYS):
            raise BadBackup(f"{path} was made by another release: format {self.header.format}")
        self._next = next(self._lines, None)

    def tables(self) -> Iterator[Line]:
        """Each table's rows are to be read before the next. BadBackup at the end, if it is not whole."""
        count = 0

        def rows() -> Iterator[Sequence[Any]]:
            nonlocal count
            for line in self._lines:
                if not isinstance(line, list):
                    self._next = line
                    return
                count += 1
                yield line
            self._next = None

        while isinstance(self._next, dict) and "table" in self._next:
            name, columns = self._next["table"], self._next["columns"]
            self._next = None
            yield name, columns, rows()
        if self._next != {"rows": count}:
            raise BadBackup("the backup is not whole: its end is missing")


def _lines(path: Path) -> Iterator[Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise BadBackup(f"the backup cannot be read: {error}") from error
