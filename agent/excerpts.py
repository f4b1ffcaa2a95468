"""Warnings and errors of the log, for the cloud: few of each, counted beyond, and without secrets."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from agent.journal import Journal
from cloud_sync.telemetry.redaction import Redaction

WINDOW_S = 600.0
OF_ONE = 5  # lines of one event in a window; beyond, they are counted
EVENTS = 100  # that are told apart in a window
CHARACTERS, FIELDS = 500, 20  # of one field, and of a line
SECRET = re.compile(r"key|token|secret|password|authorization|cookie|prompt|body", re.I)  # fields not told
OWN = {"level", "timestamp", "event", "exc_info", "stack_info", "logger"}


class Excerpts(logging.Handler):
    """`clock`: monotonic."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._journal, self._clock = journal, clock
        self.redaction = Redaction()
        self._seen: dict[str, int] = {}  # lines of each event, in this window
        self._until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """May be called by any thread; `Handler.handle` lets in one at a time."""
        try:
            line = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
            self._take(line, record)
        except Exception:  # noqa: BLE001 - as all of logging's handlers: who logs is not disturbed
            self.handleError(record)

    def settle(self) -> None:
        """At a window's end, say how many lines were left out. Called often."""
        self.acquire()
        try:
            if self._clock() < self._until:
                return
            seen, self._seen, self._until = self._seen, {}, self._clock() + WINDOW_S
        finally:
            self.release()
        for event, count in seen.items():
            if count > OF_ONE:
                self._journal.log("warning", {"event": self._clean(event), "left_out": count - OF_ONE})

    def _take(self, line: dict[str, Any], record: logging.LogRecord) -> None:
        event = str(line.get("event"))[: 4 * CHARACTERS]
        self.settle()
        known = event if event in self._seen or len(self._seen) < EVENTS else "others"
        self._seen[known] = self._seen.get(known, 0) + 1
        if self._seen[known] <= OF_ONE:
            self._journal.log(record.levelname.lower(), self._told(event, line, record))

    def _told(self, event: str, line: dict[str, Any], record: logging.LogRecord) -> dict[str, Any]:
        fields = {
            name: value if isinstance(value, bool | int | None) else self._clean(value)
            for name, value in list(line.items())[:FIELDS]
            if name not in OWN and not SECRET.search(name)
        }
        if error := _error(line, record):
            fields["error"] = self._clean(error)
        return {"event": self._clean(event), "logger": record.name, **fields}

    def _clean(self, value: Any) -> str:
        return self.redaction.clean(str(value)[: 4 * CHARACTERS])[:CHARACTERS]


def _error(line: dict[str, Any], record: logging.LogRecord) -> str:
    """Its type and words; a traceback stays here."""
    found = line.get("exc_info") or record.exc_info
    if isinstance(found, tuple):
        found = found[1]
    elif found is True:
        found = sys.exception()
    return f"{type(found).__name__}: {found}" if isinstance(found, BaseException) else ""
