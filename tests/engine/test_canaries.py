"""A Version is tried on a part of the traffic, or as a shadow, on the device itself."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.support.agent import NO_TLS, Agent
from tests.support.gguf_file import write_gguf
from tests.support.onnx_file import FLOAT, write_onnx
from tests.tooling.command import run


def call(agent: Agent, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        return client.post(path, json=body or {})


def pull(agent: Agent, file: Path, name: str = "echo", **trial: Any) -> str:
    """The Version that came."""
    body = {"source": str(file), "name": name} | ({"trial": trial} if trial else {})
    last: dict[str, Any] = json.loads(call(agent, "/api/pull", body).text.splitlines()[-1])
    assert "version" in last, last
    return str(last["version"])


def live(agent: Agent, model: str = "echo") -> dict[str, dict[str, Any]]:
    return {row["version"]: row for row in agent.status()["models"] if row["name"] == model}


def who(agent: Agent, user: str | None = None, **more: Any) -> str:
    """The Version that answers."""
    answer = agent.chat("hello", **({"user": user} if user else {}), **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["system_fingerprint"]).rpartition("-")[2]


def shares(agent: Agent, users: int) -> Counter[str]:
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(lambda at: who(agent, f"user-{at}"), range(users)))


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one_agent(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(ECHO_STEP_SECONDS="0.001")


@pytest.fixture
def agent(one_agent: Agent) -> Iterator[Agent]:
    """One on which nothing is tried, before and after."""
    yield one_agent
    call(one_agent, "/api/models/echo/abort")


SALTS = itertools.count(100)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A version of echo that no agent has seen."""
    return write_gguf(tmp_path / "new.gguf", salt=next(SALTS))


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
    second = pull(agent, write_gguf(tmp_path / "second.gguf", salt=next(SALTS)), weight=30)
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


def test_a_shadow_answers_copies_that_nobody_sees(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    shadow = pull(agent, new, shadow=True)
    assert {who(agent, f"user-{at}") for at in range(6)} == {stable}
    until(lambda: agent.metric(f'shadow_total{{model_name="echo",outcome="agree",version="{shadow}"}}') == 6)
    row = live(agent)[shadow]
    assert (row["role"], row["weight"], row["compared"]) == ("shadow", 0, {"agree": 6})
    assert live(agent)[stable]["running"] == 0


def test_a_shadow_gives_way_where_the_node_has_something_to_do(agent: Agent, new: Path) -> None:
    shadow = pull(agent, new, shadow=True)
    assert agent.chat("x" * 1500).status_code == 200  # a copy of over a second begins now
    until(lambda: live(agent)[shadow]["running"] == 1)
    assert agent.chat("in between " * 20).status_code == 200
    until(lambda: live(agent)[shadow]["compared"].get("skipped") == 1)


def test_the_answers_of_a_shadow_of_tensors_are_compared(agent: Agent, tmp_path: Path) -> None:
    shape = {"inputs": [("a", FLOAT, (None, 2)), ("b", FLOAT, (None, 2))]}
    pull(agent, write_onnx(tmp_path / "one.onnx", op="Add", **shape), "maths")
    with triton.InferenceServerClient(f"127.0.0.1:{agent.port}", network_timeout=60.0) as client:

        def ask() -> Any:
            inputs = [triton.InferInput(name, [1, 2], "FP32") for name in "ab"]
            for one in inputs:
                one.set_data_from_numpy(np.array([[3, -4]], np.float32))
            return client.infer("maths", inputs).as_numpy(
                client.get_model_metadata("maths")["outputs"][0]["name"]
            )

        assert ask().tolist() == [[6, -8]]
        shadow = pull(agent, write_onnx(tmp_path / "two.onnx", op="Mul", **shape), "maths", shadow=True)
        assert ask().tolist() == [[6, -8]]
    until(lambda: live(agent, "maths")[shadow]["compared"] == {"differ": 1})


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


WRONG = {
    "no such model": ("nosuch:0123456789ab", {"weight": 5}, 404, "not on the shelf"),
    "no such version": ("echo:0123456789ab", {"weight": 5}, 404, "not on the shelf"),
    "no version": ("echo", {"weight": 5}, 400, "name the Version"),
    "too much": ("echo:{other}", {"weight": 101}, 400, "weight"),
    "nothing": ("echo:{other}", {}, 400, "more than 0"),
    "both": ("echo:{other}", {"weight": 5, "shadow": True}, 400, "has no weight"),
    "the stable one": ("echo:{stable}", {"weight": 5}, 400, "that serves"),
}


@pytest.fixture(scope="module")
def two(
    start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Agent, str, str]:
    """An agent with two Versions on its shelf: the one that serves, and the other."""
    agent = start_agent()
    [other] = live(agent)
    return agent, pull(agent, write_gguf(tmp_path_factory.mktemp("m") / "new.gguf", salt=1)), other


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_trial_is_refused_and_nothing_changes(two: tuple[Agent, str, str], case: str) -> None:
    agent, stable, other = two
    name, body, status, says = WRONG[case]
    refused = call(agent, f"/api/models/{name.format(stable=stable, other=other)}/canary", body)
    assert (refused.status_code, says in refused.text) == (status, True), refused.text
    assert list(live(agent)) == [stable]


@pytest.mark.parametrize("how", ["promote", "abort"])
def test_there_is_nothing_to_end_where_nothing_is_tried(two: tuple[Agent, str, str], how: str) -> None:
    told = run(how, "echo", AUTOGLM_DATA_DIR=str(two[0].data_dir))
    assert told.returncode == 1
    assert "echo has no canary" in told.stderr


@pytest.mark.parametrize("path", ["canary", "promote", "abort"])
def test_trials_are_for_administrators(two: tuple[Agent, str, str], path: str) -> None:
    agent, _, other = two
    refused = httpx.post(f"{agent.base_url}/api/models/echo:{other}/{path}", json={"weight": 5})
    assert refused.status_code == 403


def test_weights_of_several_canaries_add_up_to_a_hundred_at_most(
    two: tuple[Agent, str, str], tmp_path: Path
) -> None:
    agent, stable, other = two
    assert call(agent, f"/api/models/echo:{other}/canary", {"weight": 60}).status_code == 200
    third = write_gguf(tmp_path / "third.gguf", salt=3)
    body = {"source": str(third), "name": "echo", "trial": {"weight": 50}}
    assert "at most 100" in call(agent, "/api/pull", body).text
    third_version = pull(agent, third, weight=40)
    assert set(shares(agent, 40)) == {other, third_version}
    refused = call(agent, "/api/models/echo/promote")
    assert refused.status_code == 400
    assert f"echo:{third_version}" in refused.text
    assert call(agent, f"/api/models/echo:{third_version}/abort").json() == {"aborted": [third_version]}
    assert call(agent, f"/api/models/echo:{other}/promote").json() == {"promoted": other}
    assert list(live(agent)) == [other]
    assert set(shares(agent, 8)) == {other} != {stable}
