"""A clock that is wrong by ten years: the node joins, reports, renews, and serves all the while."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud_sync import identity, kept
from cloud_sync.identity import DAY, Authority
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.wall_clock import wrong_by

YEARS_S = 10 * 365 * 86400


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")


async def grow_old(controller: Controller, cloud: Path) -> None:
    """Give a node a certificate that ended ten days ago."""
    ca = Authority(
        (controller.data_dir / "ca.pem").read_bytes(), (controller.data_dir / "ca.key").read_bytes()
    )
    now, key = ca.holder(_certificate(cloud)), identity.new_key()
    csr = identity.request(key, "x")
    made, old = ca.issue_node(csr, now.node, time.time() - 40 * DAY, 30 * DAY)
    kept.write(cloud / "identity.pem", key + made)
    await controller.execute(
        "INSERT INTO certificates (serial, node, key, not_after) VALUES"
        f" ('{old.serial}', '{old.node}', '{identity.key_of(csr)}', {old.not_after})"
    )


def _certificate(cloud: Path) -> bytes:
    pair = (cloud / "identity.pem").read_bytes()
    return pair[pair.index(b"-----BEGIN CERTIFICATE") :]


def renewals(controller: Controller, name: str) -> int:
    rows = json.loads(controller.run("audit", "--json", "--limit", "1000").stdout)
    return sum(row["action"] == "certificate.renewed" and row["target"] == name for row in rows)


@pytest.mark.parametrize("ahead_s", [YEARS_S, -YEARS_S], ids=["ahead", "behind"])
async def test_a_node_with_a_wrong_clock_joins_reports_and_renews_once(
    controller: Controller, start_agent: Callable[..., Agent], tmp_path: Path, ahead_s: int
) -> None:
    name = "ahead" if ahead_s > 0 else "behind"
    variables = wrong_by(ahead_s, tmp_path)
    joined = controller.try_to_join(tmp_path, name, controller.token(), **variables)
    assert joined.returncode == 0, joined.stderr
    await grow_old(controller, tmp_path / "cloud")
    agent = start_agent(data_dir=tmp_path, **variables)
    assert f'"timestamp": "{datetime.fromtimestamp(time.time() + ahead_s, UTC):%Y}' in agent.log
    controller.until(name, ready=True)
    for heartbeat_s in (1.1, 1.2, 1.3):
        controller.configure(f"node:{name}", heartbeat_s=heartbeat_s)
        controller.until_observed(name)
        assert agent.chat("served").status_code == 200
    assert renewals(controller, name) == 1
    _, ends = identity.life(_certificate(tmp_path / "cloud"))
    assert time.time() + 29 * DAY < ends < time.time() + 31 * DAY
    agent.stop()
