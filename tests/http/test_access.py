"""API keys: who they let in, to which models, how often."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import openai
import pytest
from openai import OpenAI

from agent.access import ANONYMOUS, Access
from agent.config_access import ApiKey
from agent.errors import Unauthorized
from tests.support.agent import Agent

Connect = Callable[..., OpenAI]
HELLO = [{"role": "user", "content": "hello"}]


def get(agent: Agent, path: str, key: str | None = None) -> httpx.Response:
    return httpx.get(agent.base_url + path, headers={"Authorization": f"Bearer {key}"} if key else {})


def test_a_key_lets_in(guarded_agent: Agent, connect: Connect) -> None:
    answer = connect(guarded_agent, "key-all").chat.completions.create(model="echo", messages=HELLO)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "hello"


def test_a_wrong_key_does_not(guarded_agent: Agent, connect: Connect) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        connect(guarded_agent, "key-al").models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/status", "/api/models", "/nothing"])
def test_with_keys_everything_else_needs_one(guarded_agent: Agent, path: str) -> None:
    refused = get(guarded_agent, path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert get(guarded_agent, path, "key-boss").status_code == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
def test_probes_and_the_documentation_need_no_key(guarded_agent: Agent, path: str) -> None:
    assert get(guarded_agent, path).status_code == 200


def test_a_key_for_other_models_sees_and_uses_none_of_these(guarded_agent: Agent, connect: Connect) -> None:
    client = connect(guarded_agent, "key-narrow")
    assert list(client.models.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("echo")
    for model in ("echo", ""):  # the default is no way round
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.completions.create(model=model, prompt="hello")
        assert caught.value.param == "model"


def test_over_its_limit_a_key_is_told_when_to_come_back(guarded_agent: Agent, connect: Connect) -> None:
    client = connect(guarded_agent, "key-rare")
    with pytest.raises(openai.RateLimitError) as caught:
        _ask_thrice(client)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    connect(guarded_agent, "key-all").completions.create(model="echo", prompt="hello")


def _ask_thrice(client: OpenAI) -> None:
    for _ in range(3):
        client.completions.create(model="echo", prompt="hello")


def test_administration_needs_an_administrators_key(guarded_agent: Agent, echo_agent: Agent) -> None:
    assert get(guarded_agent, "/api/models", "key-all").status_code == 403
    assert get(guarded_agent, "/api/models", "key-boss").status_code == 200
    assert get(echo_agent, "/api/models").status_code == 403
    assert httpx.delete(f"{echo_agent.base_url}/api/models/echo").status_code == 403


def test_no_key_is_shown_by_the_status(guarded_agent: Agent) -> None:
    text = get(guarded_agent, "/status", "key-all").text
    assert "boss" in text
    assert "key-boss" not in text


async def test_without_keys_everybody_is_anonymous() -> None:
    assert await Access([]).caller(None) == ANONYMOUS
    assert await Access([]).caller("Bearer anything") == ANONYMOUS


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic a2V5", "key", "Bearer k\udcff", "bearer KEY"]
)
async def test_what_is_not_the_key_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        await Access([ApiKey(name="k", key="key")]).caller(header)  # type: ignore[arg-type]


async def test_the_scheme_is_read_in_any_case() -> None:
    caller = await Access([ApiKey(name="k", key="key")]).caller("bearer key")  # type: ignore[arg-type]
    assert caller.sender == "http:k"


def test_a_key_without_a_secret_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'k'"):
        Access([ApiKey(name="k")])
