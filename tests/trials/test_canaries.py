"""A Version is tried on a part of the traffic, on the device itself."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support.agent import NO_TLS, Agent
from tests.support.gguf_file import write_gguf
from tests.support.trials import call, live, pull, shares, who
from tests.support.waiting import until
from tests.tooling.command import run


def test_a_canary_gets_its_part_of_the_traffic_and_users_keep_their_version(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=20)
    told = live(agent)
    assert {version: (row["role"], row["weight"]) for version, row in told.items()} == {
        stable: ("stable", 80),
        canary: ("canary", 20),
    }
    first = {user: who(agent, user) for user in (f"user-{at}" for at in range(60))}
    assert 3 <= sum(version == canary for version in first.values()) <= 24
    assert all(who(agent, user) == version for user, version in first.items())
    call(agent, f"/api/models/echo:{canary}/canary", {"weight": 50})
    assert all(who(agent, user) == canary for user, version in first.items() if version == canary)
    assert (
        agent.metric(f'request_success_total{{finished_reason="stop",model_name="echo",version="{canary}"}}')
        > 0
    )


def test_a_change_of_one_canarys_weight_leaves_the_other_canarys_users_alone(
    agent: Agent, new: Path, tmp_path: Path
) -> None:
    def users() -> dict[str, str]:
        with ThreadPoolExecutor(8) as pool:
            return dict(pool.map(lambda at: (f"user-{at}", who(agent, f"user-{at}")), range(60)))

    [stable] = live(agent)
    first = pull(agent, new, weight=20)
    second = pull(agent, write_gguf(tmp_path / "second.gguf", salt=99), weight=30)
    for weight in (60, 5):
        before = users()
        assert set(before.values()) == {stable, first, second}
        assert call(agent, f"/api/models/echo:{first}/canary", {"weight": weight}).status_code == 200
        moved = {(before[user], now) for user, now in users().items() if now != before[user]}
        assert moved == {(stable, first) if weight == 60 else (first, stable)}
    before = users()
    agent.kill(signal.SIGKILL)
    agent.start()
    until(lambda: all(row["worker"]["state"] == "ready" for row in live(agent).values()))
    assert users() == before


def test_without_a_user_each_request_is_drawn_for_itself(agent: Agent, new: Path) -> None:
    pull(agent, new, weight=50)
    assert len({who(agent) for _ in range(24)}) == 2


def test_a_version_can_be_asked_for_by_its_name(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=1)
    for version in (stable, canary):
        assert {who(agent, f"user-{at}", model=f"echo:{version}") for at in range(5)} == {version}
    assert agent.chat("hello", model="echo:0123456789ab").status_code == 404


def test_promote_lets_the_canary_serve_all_and_no_request_is_dropped(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=10)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"request {at} " + "x" * 100) for at in range(24)]
        time.sleep(0.05)
        told = run("promote", "echo", AUTOGLM_DATA_DIR=str(agent.data_dir))
        answers += [pool.submit(agent.chat, f"later {at}") for at in range(8)]
        assert [one.result().status_code for one in answers] == [200] * 32
    assert canary in told.stderr
    assert list(live(agent)) == [canary]
    assert shares(agent, 8) == {canary: 8}
    agent.restart()
    assert list(live(agent)) == [canary] != [stable]


def test_abort_takes_the_canary_away_and_it_does_not_come_back(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=100)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"request {at} " + "x" * 100) for at in range(24)]
        time.sleep(0.05)
        told = run("abort", "echo", AUTOGLM_DATA_DIR=str(agent.data_dir))
        assert [one.result().status_code for one in answers] == [200] * 24
    assert canary in told.stderr
    assert shares(agent, 8) == {stable: 8}
    agent.restart()
    assert list(live(agent)) == [stable]


def test_a_trial_goes_on_after_kill_9_as_it_was(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=30)
    before = {user: who(agent, user) for user in (f"user-{at}" for at in range(20))}
    agent.kill(signal.SIGKILL)
    agent.start()
    until(lambda: all(row["worker"]["state"] == "ready" for row in live(agent).values()))
    assert {version: row["role"] for version, row in live(agent).items()} == {
        stable: "stable",
        canary: "canary",
    }
    assert {user: who(agent, user) for user in before} == before


def test_a_version_that_is_pulled_for_a_trial_is_not_served_by_a_crash_before_the_trial(
    agent: Agent, new: Path
) -> None:
    """As a power cut would leave it: on the shelf, the newest, and nothing decided."""
    [stable] = live(agent)
    pull(agent, new, weight=30)
    agent.kill(signal.SIGKILL)
    plan = agent.data_dir / "canaries.json"
    plan.write_text(json.dumps({"echo": {"stable": stable, "canaries": []}}))
    agent.start()
    assert list(live(agent)) == [stable]


def test_a_canary_whose_worker_dies_costs_nobody_an_answer(agent: Agent, new: Path) -> None:
    canary = pull(agent, new, weight=100)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"request {at} " + "x" * 200) for at in range(8)]
        time.sleep(0.1)
        os.kill(live(agent)[canary]["worker"]["pid"], signal.SIGKILL)
        assert [one.result().status_code for one in answers] == [200] * 8


def test_a_canary_that_does_not_load_is_told_and_the_stable_version_serves_on(
    agent: Agent, tmp_path: Path
) -> None:
    [stable] = live(agent)
    body = {
        "source": str(write_gguf(tmp_path / "bad.gguf", salt=13)),
        "name": "echo",
        "trial": {"weight": 50},
    }
    last = json.loads(call(agent, "/api/pull", body).text.splitlines()[-1])
    assert "does not load" in last["error"]["message"]
    assert shares(agent, 8) == {stable: 8}
    agent.restart()
    assert list(live(agent)) == [stable]


def test_loading_a_model_by_its_name_does_not_end_its_trial(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=10)
    for how in ("load", "unload", "load"):
        assert call(agent, f"/v2/repository/models/echo/{how}").status_code == 200
    assert {version: row["role"] for version, row in live(agent).items()} == {
        stable: "stable",
        canary: "canary",
    }
    until(lambda: live(agent)[canary]["worker"]["state"] == "ready")


def test_a_canary_that_is_not_well_is_not_promoted(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=10)
    for _ in range(2):
        os.kill(live(agent)[canary]["worker"]["pid"], signal.SIGKILL)
        until(lambda: live(agent)[canary]["worker"]["state"] != "ready")
        if live(agent)[canary]["worker"]["state"] == "backoff":
            break
    refused = call(agent, "/api/models/echo/promote")
    assert (refused.status_code, "is not promoted" in refused.text) == (503, True), refused.text
    assert who(agent, "ann") == stable


def test_the_version_that_serves_is_not_removed_while_another_is_tried(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    canary = pull(agent, new, weight=10)
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        for version in (stable, canary):
            assert client.delete(f"/api/models/echo:{version}").status_code == 409
    assert set(live(agent)) == {stable, canary}


def test_a_trial_that_was_never_begun_does_not_serve_after_a_restart(agent: Agent, new: Path) -> None:
    """The pull is whole, and the trial is refused: the version stays on the shelf, and is not the newest."""
    [stable] = live(agent)
    body = {"source": str(new), "name": "echo", "trial": {}}
    assert "more than 0" in call(agent, "/api/pull", body).text
    agent.restart()
    assert list(live(agent)) == [stable]
