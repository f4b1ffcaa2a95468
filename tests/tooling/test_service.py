"""The systemd unit, and what the agent tells systemd."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent import systemd
from tests.support.agent import Agent

UNIT = Path(__file__).parents[2] / "systemd" / "autoglm-agent.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], check=False, capture_output=True, text=True)


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/autoglm/.venv", sys.prefix))
    told = analyze("verify", "--recursive-errors=no", "--man=no", str(here))
    assert told.stdout + told.stderr == "", "it ends with 0 on some mistakes, but never silently"
    assert told.returncode == 0


def test_the_unit_exposes_little() -> None:
    told = analyze("security", "--offline=true", "--threshold=30", "--no-pager", str(UNIT))
    assert told.returncode == 0, told.stdout[-500:]


def test_systemd_hears_that_the_agent_is_ready_and_alive_and_stopping(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        agent = start_agent(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
        wait_for(manager, "READY=1")
        wait_for(manager, "WATCHDOG=1")
        agent.stop()
        wait_for(manager, "STOPPING=1")


def test_outside_of_systemd_nothing_is_told_or_asked(monkeypatch: object) -> None:
    assert systemd.notify("READY=1") is False
    assert systemd.watchdog_interval() is None


def wait_for(manager: socket.socket, state: str) -> None:
    """Until that has come; a time-out is the test's failure."""
    while state not in manager.recv(4096).decode().splitlines():
        pass
