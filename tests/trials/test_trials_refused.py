"""Trials that are wrong are refused, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.trials import call, live, pull, shares
from tests.tooling.command import run

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
