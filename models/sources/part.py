"""The part of a download that is here: `file` and, beside it, a journal of what is surely on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from models import disk

_SYNC_BYTES = 16 * 1024 * 1024  # of new data, or
_SYNC_S = 2.0  # seconds since the last sync: how much a crash may cost
_READ = 4 * 1024 * 1024


class Part:
    """A growing file with its running digest. Every method may wait on the disk: call them in a thread.

    After a power cut a file's tail may be zeros, so only what the journal says was synced is trusted.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.path = folder / "file.part"
        self.etag = ""  # a strong validator of what is here; "" if the server gave none
        self.total: int | None = None
        self.done = 0
        self._url = url
        self._journal = folder / "journal.json"
        self._synced = 0
        self._synced_at = time.monotonic()
        self._digest = hashlib.sha256()
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")

    def resume(self) -> None:
        """Take up what an earlier process left, hashing it anew."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            journal = json.loads(self._journal.read_bytes())
            if journal["url"] == self._url:
                self._hash(int(journal["synced"]))
                if self.done:
                    self.etag = str(journal["etag"])
                    self.total = None if journal["size"] is None else int(journal["size"])
        self._file.seek(self.done)
        self._file.truncate()
        self._synced = self.done

    def _hash(self, count: int) -> None:
        while self.done < count and (data := self._file.read(min(_READ, count - self.done))):
            self._digest.update(data)
            self.done += len(data)

    def begin(self, etag: str, total: int | None) -> None:
        """Start over, with a new validator."""
        self._file.seek(0)
        self._file.truncate()
        self.done = self._synced = 0
        self._digest = hashlib.sha256()
        self.etag, self.total = etag, total
        self._write_journal()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.done += len(data)
        if self.done - self._synced >= _SYNC_BYTES or time.monotonic() - self._synced_at >= _SYNC_S:
            self.sync()

    def sync(self) -> None:
        self._file.flush()
        if self.done == self._synced:
            return
        os.fsync(self._file.fileno())
        self._synced, self._synced_at = self.done, time.monotonic()
        self._write_journal()

    def _write_journal(self) -> None:
        journal = {"url": self._url, "etag": self.etag, "size": self.total, "synced": self._synced}
        disk.write_lasting(self._journal, json.dumps(journal).encode())

    def digest(self) -> str:
        """SHA-256 of all that is here, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()
