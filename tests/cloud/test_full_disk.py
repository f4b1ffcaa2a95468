"""A disk is full: it is said, serving goes on, nothing is promised that is not kept, and room mends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.disk import fill, mounted


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The controller's."""
    with mounted(tmp_path_factory.mktemp("controller") / "disk", megabytes=80) as one:
        yield one


@pytest.fixture(scope="module")
def controller(disk: Path) -> Iterator[Controller]:
    one = Controller(disk / "data", {"AUTOGLM_CLOUD_HEARTBEAT_S": "1"}).start()
    yield one
    one.stop()


def test_a_nodes_disk_is_full(
    controller: Controller, start_agent: Callable[..., Agent], small_disk: Path
) -> None:
    controller.join(small_disk / "data", "full")
    agent = start_agent(data_dir=small_disk / "data", AUTOGLM_LOG_LEVEL="error")
    controller.configure("node:full", heartbeat_s=1.1)
    controller.until_observed("full")
    ballast = fill(small_disk)
    said: list[dict[str, Any]] = []

    def told() -> str:
        return str(agent.status()["cloud"]["link"])

    def is_said() -> bool:
        """Twice: it goes on to report. Databases make room as they shrink, for a document or two."""
        fill(small_disk)
        row = controller.nodes()["full"]
        if row["observed_generation"] == row["generation"]:
            controller.configure("node:full", heartbeat_s=1.2 + row["generation"] / 1000)
        elif "No space left" in row["reported"]["reason"] and "No space left" in told():
            said.append(row)
        return bool(said) and said[-1]["seen_at"] > said[0]["seen_at"]

    _until(is_said)
    assert agent.chat("served").status_code == 200
    ballast.unlink()
    controller.until_observed("full")
    _until(lambda: told() == "connected")
    agent.stop()


def test_the_controllers_disk_is_full(
    controller: Controller, start_node: Callable[..., Agent], disk: Path
) -> None:
    node = start_node(controller, "follower")
    controller.until("follower", ready=True)
    ballast = fill(disk)
    kept, status = 0, 200
    for number in range(1, 400):  # the log of the database has some room yet
        answer = controller.configure("node:follower", heartbeat_s=2 + number / 1000)
        if (status := answer.status_code) != 200:
            break
        kept = number
    assert status == 503
    assert answer.json()["error"]["code"] == "database_unavailable"
    assert controller.nodes()["follower"]["generation"] == kept + 1, "what was answered well, and no more"
    assert node.chat("served").status_code == 200
    ballast.unlink()
    assert controller.configure("node:follower", heartbeat_s=1).status_code == 200
    assert controller.until_observed("follower")["generation"] == kept + 2
    assert "the database did not take it" in controller.log


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
