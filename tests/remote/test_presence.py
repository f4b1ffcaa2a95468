"""Whether a remote Model's server is there: found out, told, and waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.remote.conftest import command, content, pull, until, worker_of
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.upstream import Upstream


def test_while_the_server_is_away_the_worker_lives_and_says_so(agent: Agent, tmp_path: Path) -> None:
    there = Upstream(gets={"/v1/models": {"data": [{"id": "theirs"}]}}, good=does.answer("back")).start()
    pull(agent, tmp_path, "away", url=there.url)
    assert content(agent.chat("hello", model="away")) == "back"
    worker = worker_of(agent, "away")
    there.stop()
    ready = f"{agent.base_url}/v2/models/away/ready"
    assert agent.chat("hello", model="away").status_code == 503
    until(lambda: httpx.get(ready).status_code == 503)
    assert "cannot be reached" in httpx.get(ready).json()["error"]
    refused = agent.chat("hello", model="away")
    assert refused.status_code == 503
    assert "cannot be reached" in refused.json()["error"]["message"]
    there.start()
    until(lambda: httpx.get(ready).status_code == 200)
    assert content(agent.chat("hello", model="away")) == "back"
    assert worker_of(agent, "away") == worker
    there.stop()


def test_what_cannot_be_reached_or_is_not_there_does_not_load_and_says_why(
    agent: Agent, server: Upstream, tmp_path: Path
) -> None:
    pull(agent, tmp_path, "wrong", url=server.url, model="other")
    answer = command(agent, "wrong", "load")
    assert answer.status_code == 503
    assert "no model 'other'; it has theirs" in answer.json()["error"]
    pull(agent, tmp_path, "nobody", url="http://127.0.0.1:1")
    answer = agent.chat("hello", model="nobody")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.json()["error"]["message"]


def test_a_default_model_whose_server_comes_later_is_served_then(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    there = Upstream(gets={"/v1/models": {"data": [{"id": "theirs"}]}}, good=does.answer("late")).start()
    there.stop()
    file = tmp_path / "later.toml"
    file.write_text(f'engine = "openai"\nurl = "{there.url}"\nmodel = "theirs"\n')
    agent = start_agent(ready=False, AUTOGLM_MODEL=str(file))
    until(lambda: agent.chat("hello").status_code == 503)
    assert "cannot be reached" in httpx.get(f"{agent.base_url}/readyz").text
    there.start()
    agent.wait("/readyz")
    assert content(agent.chat("hello")) == "late"
    there.stop()
