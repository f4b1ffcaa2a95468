"""Several Models on one node: offered when they are on the shelf, loaded on demand, unloaded when idle."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.free_memory import available
from tests.support.agent import NO_TLS, Agent
from tests.support.gguf_file import MINIMAL, write_gguf


def admin(agent: Agent) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    return httpx.Client(transport=transport, base_url="http://agent", timeout=60)


def pull(agent: Agent, file: Path, name: str) -> None:
    with admin(agent) as client:
        answer = client.post("/api/pull", json={"source": str(file), "name": name})
        assert "version" in answer.text.splitlines()[-1], answer.text


def states(agent: Agent) -> dict[str, str]:
    return {model["name"]: model["worker"]["state"] for model in agent.status()["models"]}


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def content(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """One whose default is "echo", with "second" and "third" on the shelf."""
    agent = start_agent(ECHO_STEP_SECONDS="0.005")
    folder = tmp_path_factory.mktemp("models")
    for salt, name in ((2, "second"), (3, "third")):
        pull(agent, write_gguf(folder / f"{name}.gguf", salt=salt), name)
    return agent


def test_a_pulled_model_is_offered_at_once_and_loaded_when_somebody_asks(agent: Agent) -> None:
    listed = httpx.get(f"{agent.base_url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["echo", "second", "third"]
    assert states(agent)["second"] == "stopped"
    assert content(agent.chat("to the second", model="second")) == "to the second"
    assert states(agent) == {"echo": "ready", "second": "ready", "third": "stopped"}
    assert content(agent.chat("to the default")) == "to the default"


def test_models_answer_side_by_side(agent: Agent) -> None:
    names = ["echo", "second", "third"] * 8
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda name: agent.chat(f"for {name}", model=name), names))
    assert [content(answer) for answer in answers] == [f"for {name}" for name in names]
    assert [answer.json()["model"] for answer in answers] == names


def test_no_request_is_dropped_while_a_model_is_loaded_and_unloaded_again_and_again(agent: Agent) -> None:
    with ThreadPoolExecutor(8) as pool, admin(agent) as client:
        answers = []
        for turn in range(4):
            answers += [pool.submit(agent.chat, f"turn {turn}, {at}", model="third") for at in range(8)]
            time.sleep(0.1)
            assert client.post("/v2/repository/models/third/unload", json={}).status_code == 200
        assert [content(one.result()) for one in answers] == [
            f"turn {turn}, {at}" for turn in range(4) for at in range(8)
        ]
    assert agent.metric("worker_restarts_total") == 0


def test_an_idle_model_is_unloaded_when_its_keep_alive_is_over_and_the_default_stays(agent: Agent) -> None:
    assert content(agent.chat("briefly", model="second", keep_alive="100ms")) == "briefly"
    assert content(agent.chat("briefly", keep_alive=0)) == "briefly"
    until(lambda: states(agent)["second"] == "stopped")
    assert states(agent)["echo"] == "ready"
    assert content(agent.chat("for ever", model="second", keep_alive=-1)) == "for ever"


def test_a_model_is_loaded_and_unloaded_by_hand(agent: Agent) -> None:
    with admin(agent) as client:
        assert client.post("/v2/repository/models/third/load", content=b"").status_code == 200
        assert httpx.get(f"{agent.base_url}/v2/models/third/ready").status_code == 200
        assert client.post("/v2/repository/models/third/unload").status_code == 200
        refused = client.get("/v2/models/third/ready")
        assert (refused.status_code, refused.json()) == (503, {"error": "the model is not loaded"})
        index = client.post("/v2/repository/index", content=b"").json()
        assert {row["name"]: row["state"] for row in index}["third"] == "UNAVAILABLE"
        missing = client.post("/v2/repository/models/nosuch/load", json={})
        assert missing.status_code == 404
        assert "nosuch is not on the shelf" in missing.json()["error"]


def test_loading_is_for_administrators(agent: Agent) -> None:
    for how in ("load", "unload"):
        refused = httpx.post(f"{agent.base_url}/v2/repository/models/third/{how}")
        assert refused.status_code == 403
        assert isinstance(refused.json()["error"], str)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_and_nothing_is_unloaded_for_it(
    agent: Agent, tmp_path: Path
) -> None:
    wide = {**MINIMAL, "llama.block_count": 512, "llama.embedding_length": 8192}
    pull(agent, write_gguf(tmp_path / "huge.gguf", wide), "huge")
    assert content(agent.chat("here", model="second", keep_alive=-1)) == "here"
    refused = agent.chat("too much", model="huge")
    assert refused.status_code == 503
    assert "huge needs about" in refused.json()["error"]["message"]
    assert "MB are available" in refused.json()["error"]["message"]
    assert states(agent)["second"] == "ready"


def test_an_unknown_model_is_told_with_those_that_are_there(agent: Agent) -> None:
    refused = agent.chat("hello", model="nosuch")
    assert refused.status_code == 404
    assert "which has 'echo', " in refused.json()["error"]["message"]


def test_a_removed_model_is_no_longer_offered(agent: Agent, tmp_path: Path) -> None:
    pull(agent, write_gguf(tmp_path / "brief.gguf", salt=9), "brief")
    with admin(agent) as client:
        assert client.delete("/api/models/brief").status_code == 200
    assert agent.chat("gone", model="brief").status_code == 404


def test_a_broken_model_costs_the_others_nothing(agent: Agent, tmp_path: Path) -> None:
    pull(agent, write_gguf(tmp_path / "bad.gguf", salt=13), "bad")
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(agent.chat, "hello", model="bad")
        assert content(agent.chat("fine")) == "fine"
        assert bad.result().status_code == 503


def test_the_memory_of_a_control_group_counts() -> None:
    assert 0 < available() < 1 << 50
