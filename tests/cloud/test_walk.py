"""An operator's walk: a machine joins, is seen, is told what to be, goes on alone while the cable is out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.support.agent import Agent
from tests.support.controller import Controller


@pytest.fixture(scope="module")
def controller(
    start_controller: Callable[..., Controller], database: Callable[[], dict[str, str]]
) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1", **database())


@pytest.fixture(scope="module")
def node(controller: Controller, start_node: Callable[..., Agent]) -> Agent:
    return start_node(controller, "walker", {"site": "paris"})


def test_a_node_is_seen_with_its_health_version_heartbeat_and_labels(
    controller: Controller, node: Agent
) -> None:
    controller.until("walker", ready=True)
    [row] = json.loads(controller.run("nodes", "--json").stdout)
    assert row["labels"] == {"site": "paris"}
    assert row["reported"]["version"] == node.status()["version"]
    assert time.time() - row["seen_at"] < 60
    assert "walker" in controller.run("nodes").stdout
    assert node.status()["cloud"] == {"url": controller.url, "name": "walker", "link": "connected"}


def test_a_setting_for_a_group_reaches_its_nodes_and_shows_as_observed(
    controller: Controller, node: Agent
) -> None:
    controller.run("config", "set", "--to", "site=paris", "max_batch_size=4")
    row = controller.until_observed("walker")
    controller.until("walker", items={"max_batch_size": {"state": "applied", "reason": ""}})
    node.wait("/readyz")
    assert node.status()["settings"]["max_batch_size"] == 4
    assert row["generation"] == 2
    controller.run("config", "set", "--to", "site=rome", "max_batch_size=2")
    assert controller.nodes()["walker"]["generation"] == 2
    controller.run("config", "set", "--node", "walker", "max_batch_size=3")
    controller.until_observed("walker")
    node.wait("/readyz")
    assert node.status()["settings"]["max_batch_size"] == 3


def test_with_the_cable_out_all_goes_on_and_a_restart_serves_as_before(
    controller: Controller, node: Agent
) -> None:
    controller.configure("node:walker", max_batch_size=5)
    controller.until_observed("walker")
    controller.kill()
    node.wait("/readyz")
    assert node.chat("alone").status_code == 200
    node.restart()
    assert node.chat("still alone").status_code == 200
    assert node.status()["settings"]["max_batch_size"] == 5
    controller.start()
    controller.configure("node:walker", max_batch_size=6)
    controller.until_observed("walker")
    node.wait("/readyz")
    assert node.status()["settings"]["max_batch_size"] == 6


def test_a_node_whose_heartbeats_do_not_come_is_lost_until_it_is_back(
    controller: Controller, node: Agent
) -> None:
    node.kill()
    controller.until("walker", state="lost")
    assert "lost" in controller.run("nodes").stdout
    node.restart()
    controller.until("walker", state="active")


def test_what_is_no_setting_is_refused_with_its_name(controller: Controller) -> None:
    done = controller.run("config", "set", "max_bach_size=4", check=False)
    assert done.returncode == 1
    assert "max_bach_size: there is no such setting" in done.stderr
    assert controller.configure("all", max_batch_size="many").status_code == 422
    assert controller.configure("site=", max_batch_size=1).status_code == 422
