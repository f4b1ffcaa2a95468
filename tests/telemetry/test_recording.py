"""What becomes a row: alarms once, lines of the log few of each and clean, samples where that is set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent import log as logs
from agent.alarms import LASTS_S, Alarms
from agent.config import Settings
from agent.excerpts import OF_ONE, WINDOW_S, Excerpts
from agent.journal import MOST, Journal
from cloud_sync.telemetry.rows import Backlog, Worth


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """What the alarms watch."""

    def __init__(self) -> None:
        self.doors: dict[str, str] = {}
        self.is_ready, self.says = True, "connected"

    def ready(self) -> tuple[bool, str]:
        return self.is_ready, "" if self.is_ready else "the model is loading"

    def link(self) -> str:
        return self.says


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal() -> Journal:
    return Journal()


def told(journal: Journal) -> list[tuple[str, bool]]:
    entries = journal.take()
    assert all(entry.worth is Worth.MORE for entry in entries)
    return [(entry.body["alarm"], entry.body["raised"]) for entry in entries]


async def test_an_alarm_is_raised_once_it_lasts_and_cleared_once(
    journal: Journal, clock: Clock, tmp_path: Path
) -> None:
    node = Node()
    alarms = Alarms(Settings(data_dir=tmp_path), journal, node, clock)
    await alarms.look(Backlog())
    assert told(journal) == []
    node.is_ready, node.says = False, "connection refused"
    await alarms.look(Backlog())
    assert told(journal) == []
    for _ in range(3):
        clock.now += LASTS_S
        await alarms.look(Backlog())
    assert told(journal) == [("not_ready", True), ("cloud_away", True)]
    node.is_ready = True
    await alarms.look(Backlog())
    await alarms.look(Backlog())
    assert told(journal) == [("not_ready", False)]


async def test_rows_that_are_given_up_are_an_alarm_until_all_is_sent(
    journal: Journal, clock: Clock, tmp_path: Path
) -> None:
    alarms = Alarms(Settings(data_dir=tmp_path), journal, Node(), clock)
    waiting, gone = Backlog(), Backlog()
    waiting.rows["events"] = 5
    await alarms.look(waiting)
    waiting.given_up["logs"] = 3
    await alarms.look(waiting)
    assert told(journal) == [("telemetry_given_up", True)]
    gone.given_up["logs"] = 3
    await alarms.look(gone)
    assert told(journal) == [("telemetry_given_up", False)]


@pytest.fixture
def excerpts(journal: Journal, clock: Clock) -> Iterator[Excerpts]:
    handler = Excerpts(journal, clock)
    before = logging.getLogger().handlers[:]
    logging.getLogger().addHandler(handler)
    logs.configure("info", "json")
    yield handler
    logging.getLogger().handlers[:] = before
    structlog.reset_defaults()


def test_warnings_and_errors_are_told_without_secrets(journal: Journal, excerpts: Excerpts) -> None:
    log = structlog.get_logger()
    log.info("nothing of note")
    log.warning("asked by ann@example.com", api_key="hunter2", prompt="my life", count=3, where="a" * 9999)
    try:
        raise ValueError("token=abcdef is wrong")
    except ValueError:
        log.exception("it failed")
    logging.getLogger("library").error("from %s", "a library")
    first, second, third = journal.take()
    assert (first.stream, first.kind) == ("logs", "warning")
    where = first.body.pop("where")
    assert len(where) <= 500
    assert first.body == {"event": "asked by [email]", "logger": first.body["logger"], "count": 3}
    assert second.body["error"] == "ValueError: token=[secret] is wrong"
    assert third.body == {"event": "from a library", "logger": "library"}


def test_a_line_that_comes_often_is_counted(journal: Journal, excerpts: Excerpts, clock: Clock) -> None:
    log = structlog.get_logger()
    for _ in range(OF_ONE + 10):
        log.warning("again")
    assert len(journal.take()) == OF_ONE
    clock.now += WINDOW_S
    excerpts.settle()
    [entry] = journal.take()
    assert entry.body == {"event": "again", "left_out": 10}
    log.warning("again")
    assert len(journal.take()) == 1


def test_no_prompt_becomes_a_sample_unless_that_is_set(journal: Journal) -> None:
    for share, count in ((0.0, 0), (1.0, 100)):
        journal.share = share
        for _ in range(100):
            journal.prompt("m", "v", lambda: "hello")
        assert len(journal.take()) == count
    journal.share = 0.5
    for _ in range(1000):
        journal.prompt("m", "v", lambda: "hello")
    assert 300 < len(journal.take()) < 700


def test_what_the_disk_does_not_take_waits_and_what_is_too_much_is_counted(journal: Journal) -> None:
    for number in range(MOST):
        journal.event("start", number=number)
    entries = journal.take()
    journal.event("start", number=MOST)
    journal.put_back(entries)
    assert journal.lost == 1
    assert [entry.body["number"] for entry in journal.take()] == list(range(1, MOST + 1))
