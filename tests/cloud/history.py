"""What was said and heard while node and controller were killed, kept outside both and only added to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Entry:
    at: float
    kind: str
    what: Any


class History:
    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, kind: str, what: Any) -> None:
        with self._lock:
            self._entries.append(Entry(time.monotonic(), kind, what))

    def of(self, kind: str) -> list[Any]:
        """In order."""
        with self._lock:
            return [one.what for one in self._entries if one.kind == kind]


class Actor:
    """Calls `act(n)` with n from 1 on, until told to stop. What it raises fails the test at the end."""

    def __init__(self, act: Callable[[int], None], pause_s: float) -> None:
        self._act, self._pause_s = act, pause_s
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.wait(self._pause_s):
                number += 1
                self._act(number)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - raised again by the test
            self._error = error

    def __enter__(self) -> Actor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
