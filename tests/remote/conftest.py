"""An agent with models that a server of OpenAI's protocol runs, and that server, which does as it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.upstream import Upstream, listening

KEY = "hush-7391"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


def admin(agent: Agent) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(agent.socket))
    return httpx.Client(transport=transport, base_url="http://agent", timeout=60)


def pull(agent: Agent, folder: Path, name: str, **remote: Any) -> str:
    """Describe a remote model and put it on the shelf: the last line of the answer."""
    file = folder / f"{name}.toml"
    lines = {"engine": "openai", "model": "theirs", **remote}
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    with admin(agent) as client:
        return client.post("/api/pull", json={"source": str(file), "name": name}).text.splitlines()[-1]


def command(agent: Agent, name: str, what: str) -> httpx.Response:
    with admin(agent) as client:
        return client.post(f"/v2/repository/models/{name}/{what}", json={})


def content(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    found = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in found]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def worker_of(agent: Agent, name: str) -> Any:
    return next(one["worker"].get("pid") for one in agent.status()["models"] if one["name"] == name)


@pytest.fixture(scope="session")
def proxy() -> Iterator[Upstream]:
    """What the agent's environment names as a proxy."""
    with listening() as one:
        yield one


@pytest.fixture(scope="session")
def far_server() -> Iterator[Upstream]:
    """A server that answers "well", with a model "theirs"."""
    listed = {"data": [{"id": "theirs", "max_model_len": 2048}]}
    one = Upstream(gets={"/v1/models": listed}, good=does.answer("we", "ll")).start()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def agent(
    start_agent: Callable[..., Agent],
    far_server: Upstream,
    proxy: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Agent:
    """One whose default is a local echo; "far" is the server's, by its key; so is "quick", which gives up."""
    agent = start_agent(
        shared=True,
        HTTP_PROXY=proxy.url,
        http_proxy=proxy.url,
        ALL_PROXY=proxy.url,
        FAR_API_KEY=KEY,
        NO_PROXY="",
        no_proxy="",
    )
    folder = tmp_path_factory.mktemp("remote")
    assert "version" in pull(
        agent, folder, "far", url=far_server.url, api_key_env="FAR_API_KEY", timeout_s=20
    )
    assert "version" in pull(agent, folder, "quick", url=far_server.url, timeout_s=1.5, retries=0)
    return agent


@pytest.fixture
def server(far_server: Upstream) -> Upstream:
    """That server, well again."""
    far_server.next()
    return far_server
