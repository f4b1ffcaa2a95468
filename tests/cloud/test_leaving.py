"""Nodes that go for good."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.agent import Agent
from tests.support.controller import AUTOGLM, Controller

REPORT = {"boot": "boot-one", "number": 1, "version": "0.1.0"}


def leave(controller: Controller, data_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AUTOGLM, "leave", *more],
        env={**controller.variables, "AUTOGLM_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_node_that_is_removed_counts_no_longer_and_its_name_is_free(
    controller: Controller, tmp_path: Path
) -> None:
    controller.join(tmp_path / "former", "goes", site="rome")
    controller.configure("node:goes", priority=3)
    identity = tmp_path / "former" / "cloud" / "identity.pem"
    with controller.client(identity, role=None) as node, node.stream("GET", "/api/v1/node/hints") as stream:
        heard = stream.iter_lines()
        assert next(heard) == ": listening"
        controller.run("remove", "goes")
        assert not [line for line in heard if line.startswith("event")]  # it ends
        refused = node.post("/api/v1/node/report", json=REPORT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "revoked")
    assert "goes" not in controller.nodes()
    controller.join(tmp_path / "next", "goes")
    row = controller.nodes()["goes"]
    assert row["labels"] == {}
    with controller.client(tmp_path / "next" / "cloud" / "identity.pem", role=None) as node:
        assert node.get("/api/v1/node/desired").json()["settings"] == {}
        assert node.post("/api/v1/node/report", json=REPORT).status_code == 200
    again = controller.run("remove", "nobody", check=False)
    assert again.returncode == 1
    assert "no node 'nobody'" in again.stderr


def test_a_machine_that_leaves_serves_on_and_says_that_it_is_no_node(
    controller: Controller, start_node: Callable[..., Agent]
) -> None:
    agent = start_node(controller, "leaves")
    controller.until("leaves", ready=True)
    done = leave(controller, agent.data_dir)
    assert done.returncode == 0, done.stderr
    assert "leaves" not in controller.nodes()
    until = time.monotonic() + 60
    while agent.status().get("cloud") is not None:
        assert time.monotonic() < until, agent.log[-2000:]
        time.sleep(0.1)
    assert agent.status()["ready"]
    assert "the link failed" not in agent.log
    assert leave(controller, agent.data_dir).returncode == 1


def test_a_machine_whose_controller_is_away_leaves_by_force(
    start_controller: Callable[..., Controller], tmp_path: Path
) -> None:
    one = start_controller()
    one.join(tmp_path, "forced")
    one.stop()
    refused = leave(one, tmp_path)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert leave(one, tmp_path, "--force").returncode == 0
    assert not (tmp_path / "cloud" / "fleet.json").exists()
