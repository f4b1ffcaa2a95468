"""What happened on this node, in memory, until the recorder takes it for the cloud."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cloud_sync.telemetry.rows import Entry, Worth

MOST = 2000  # entries that nobody took; the oldest go
CHARACTERS = 500  # of one text in an event


class Journal:
    """Each call returns at once. `log` alone may be called by any thread. `clock`: wall time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._raised: set[str] = set()
        self.lost = 0  # entries, ever
        self.share = 0.0  # of prompts that are kept as samples

    def event(self, kind: str, **body: Any) -> None:
        """One that can come often: those of one kind and body's names within an hour may become one."""
        names = [str(body[name]) for name in ("model", "version", "what") if name in body]
        self._add(Entry("events", self._clock(), kind, _short(body), Worth.LEAST, "/".join([kind, *names])))

    def update(self, kind: str, **body: Any) -> None:
        """One that is kept by itself, and longer than all else: what became of a document or a Version."""
        self._add(Entry("events", self._clock(), kind, _short(body), Worth.MORE))

    def alarm(self, name: str, raised: bool, **body: Any) -> None:
        """Something is wrong, or no longer; said again, it is not news. One that flaps is counted."""
        if raised == (name in self._raised):
            return
        (self._raised.add if raised else self._raised.discard)(name)
        told = {"alarm": name, "raised": raised, **_short(body)}
        self._add(Entry("events", self._clock(), "alarm", told, Worth.MORE, f"alarm/{name}"))

    def log(self, level: str, body: dict[str, Any]) -> None:
        self._add(Entry("logs", self._clock(), level, body))

    def metrics(self, began: float, body: dict[str, Any]) -> None:
        self._add(Entry("metrics", began, "minute", body))

    def prompt(self, model: str, version: str, text: Callable[[], str]) -> None:
        """Somebody asked this; `text` is called where it becomes a sample."""
        if self.share and random.random() < self.share:  # noqa: S311
            told = {"model": model, "version": version, "prompt": text()}
            self._add(Entry("samples", self._clock(), "prompt", told))

    def take(self) -> list[Entry]:
        """What came since, in order."""
        return [self._entries.popleft() for _ in range(len(self._entries))]

    def put_back(self, entries: list[Entry]) -> None:
        """They could not be kept now."""
        self._entries.extendleft(reversed(entries))
        self._bound()

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._bound()

    def _bound(self) -> None:
        while len(self._entries) > MOST:
            self._entries.popleft()
            self.lost += 1


def _short(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value[:CHARACTERS] if isinstance(value, str) else value for name, value in body.items()}
