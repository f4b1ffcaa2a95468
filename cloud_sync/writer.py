"""One thread owns the connection that writes; what arrives within 5 ms shares one commit.

A commit with synchronous=FULL waits for the disk: one for each row would bound the node to some 150 rows a
second and wear its flash. A group costs what one row costs.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

GATHER_S = 0.005
GROUP = 512  # operations in one transaction, at most

T = TypeVar("T")
Act = Callable[[sqlite3.Connection], T]
_Job = tuple[Act[Any], Future[Any]]

log = structlog.get_logger()


class StateError(Exception):
    """The database did not take it: disk full, an I/O error. Promise nothing; it may be tried again."""


class Writer:
    """Runs operations in the order of their `do`, grouped into transactions. Closed by `close`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = connect()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def do(self, act: Act[T]) -> asyncio.Future[T]:
        """Queue `act` now; the future resolves to its answer after the commit, or raises StateError.

        `act` must be fit to run twice: after a failed commit it is not known whether the disk has it.
        """
        future: Future[T] = Future()
        self._jobs.put((act, future))
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Commit what is queued, then end the thread. Blocks for as long as that takes."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._gather()
            if group:
                self._commit(group)
        if self._db is not None:
            self._db.close()

    def _gather(self) -> tuple[list[_Job], bool]:
        """The next group, and whether more may come."""
        group: list[_Job] = []
        until = None
        while len(group) < GROUP:
            try:
                job = self._jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return group, False
            if job[1].set_running_or_notify_cancel():
                group.append(job)
                until = until or time.monotonic() + GATHER_S
        return group, True

    def _commit(self, group: list[_Job]) -> None:
        try:
            if self._db is None:
                self._db = self._connect()
            self._db.execute("BEGIN IMMEDIATE")
            answers = [act(self._db) for act, _ in group]
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - each caller gets it; the thread must outlive it
            self._drop()
            failure = _told(error)
            for _, future in group:
                future.set_exception(failure)
        else:
            for (_, future), answer in zip(group, answers, strict=True):
                future.set_result(answer)

    def _drop(self) -> None:
        """Close the connection, which rolls back: after a failed fsync it believes what is not so."""
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error as error:
                log.warning("closing the database failed", error=str(error))
            self._db = None


def _told(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    return StateError(f"{getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}")
