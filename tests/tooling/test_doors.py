"""Doors are plug-ins: others' are opened beside ours, and one that is broken stops nobody."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.support.agent import PLUGINS, Agent, free_port

DOORS = Path(__file__).parents[1] / "plugins" / "doors"


def test_a_door_of_somebody_elses_serves_and_broken_ones_are_told_of(
    start_agent: Callable[..., Agent],
) -> None:
    port = free_port()
    agent = start_agent(PYTHONPATH=f"{PLUGINS}:{DOORS}", LINE_DOOR_PORT=str(port))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(b"hello\n")
        assert line.makefile().readline() == "hello\n"
        doors = agent.status()["doors"]
        assert doors["line"] == "listening"
        assert doors["absent"] == "failed: ModuleNotFoundError: No module named 'no_such_module'"
        assert doors["falls"] == "failed: RuntimeError: told to fall"
        assert "unwanted" not in doors
        assert agent.chat("and over HTTP").status_code == 200
    assert agent.log.count("a door failed") == 2
    assert agent.stop() == 0
