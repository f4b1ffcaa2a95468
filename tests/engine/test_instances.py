"""Several Workers of one Model share its Requests; the death of one costs nobody an answer."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent import NO_TLS, Agent
from tests.support.gguf_file import write_gguf


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent]) -> Agent:
    """One whose model has two Workers, of one slot each."""
    own = {"echo": {"instances": 2, "max_batch_size": 1}}
    return start_agent(ECHO_STEP_SECONDS="0.01", AUTOGLM_MODELS=json.dumps(own))


def workers(agent: Agent) -> list[dict[str, Any]]:
    return [row["worker"] for row in agent.status()["models"]]


def all_ready(agent: Agent) -> bool:
    return [one["state"] for one in workers(agent)] == ["ready", "ready"]


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def call(agent: Agent, path: str, body: dict[str, Any]) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        return client.post(path, json=body)


def test_requests_go_to_the_worker_that_has_least_to_do(agent: Agent) -> None:
    until(lambda: all_ready(agent))
    assert len({one["pid"] for one in workers(agent)}) == 2
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"{at} " + "x" * 100) for at in range(8)]
        until(lambda: [one["sequences"]["running"] for one in workers(agent)] == [1, 1])
        assert [one.result().status_code for one in answers] == [200] * 8
    until(lambda: agent.metric("num_requests_running") == 0)


def test_where_one_worker_dies_the_other_goes_on_with_what_it_had(agent: Agent) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"{at} " + "x" * 60) for at in range(8)]
        until(lambda: [one["sequences"]["running"] for one in workers(agent)] == [1, 1])
        os.kill(workers(agent)[0]["pid"], signal.SIGKILL)
        assert [one.result().status_code for one in answers] == [200] * 8
        assert httpx.get(f"{agent.base_url}/readyz").status_code == 200
    until(lambda: all_ready(agent))
    assert agent.metric("worker_restarts_total") == 1


def test_a_model_is_unloaded_and_loaded_with_all_of_its_workers(agent: Agent) -> None:
    assert call(agent, "/v2/repository/models/echo/unload", {}).status_code == 200
    assert [one["state"] for one in workers(agent)] == ["stopped", "stopped"]
    assert agent.chat("again").status_code == 200
    until(lambda: all_ready(agent))


def test_a_new_version_has_as_many_workers(agent: Agent, tmp_path: Path) -> None:
    before = agent.status()["models"][0]["version"]
    source = write_gguf(tmp_path / "newer.gguf", salt=1)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"{at} " + "x" * 30) for at in range(12)]
        assert "version" in call(agent, "/api/pull", {"source": str(source), "name": "echo"}).text
        assert [one.result().status_code for one in answers] == [200] * 12
    assert {row["version"] for row in agent.status()["models"]} != {before}
    assert all_ready(agent)
