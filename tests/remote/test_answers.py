"""A Model that another server runs, by OpenAI's protocol: what goes there, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.remote.conftest import CHAT, KEY, admin, command, content, pull, until
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.upstream import Upstream, listening


def test_one_door_serves_what_is_here_and_what_another_agent_has(
    agent: Agent, echo_agent: Agent, tmp_path: Path
) -> None:
    pull(agent, tmp_path, "theirs", url=f"{echo_agent.base_url}/v1", model="echo")
    here, there = agent.chat("héllo 你好 🎉"), agent.chat("héllo 你好 🎉", model="theirs")
    assert content(here) == content(there) == "héllo 你好 🎉"
    assert here.json()["usage"] | {"prompt_tokens_details": 0} == there.json()["usage"] | {
        "prompt_tokens_details": 0
    }
    assert there.json()["model"] == "theirs"
    asked = {"model": "theirs", "prompt": "abcdef", "max_tokens": 3, "logprobs": 1, "n": 2}
    both = [
        httpx.post(f"{one.base_url}/v1/completions", json=asked | {"model": name}).json()["choices"]
        for one, name in ((agent, "theirs"), (echo_agent, "echo"))
    ]
    assert both[0] == both[1]
    assert [choice["finish_reason"] for choice in both[0]] == ["length", "length"]


def test_pieces_come_as_the_server_makes_them(agent: Agent, server: Upstream) -> None:
    server.next(does.begin_and_wait)
    with httpx.stream(
        "POST",
        f"{agent.base_url}/v1/chat/completions",
        json=CHAT | {"model": "far", "stream": True},
        timeout=20,
    ) as response:
        seen = ""
        for line in response.iter_lines():
            seen += line
            if "first" in line:
                server.may_go_on.set()  # not before the first piece is here
    assert seen.index("first") < seen.index(" second") < seen.index("[DONE]")


def test_messages_and_what_the_caller_named_go_there_and_nothing_else(agent: Agent, server: Upstream) -> None:
    asked = {
        "temperature": 0.8, "top_p": 0.5, "presence_penalty": 0.1, "frequency_penalty": 0.2, "seed": 7,
        "max_tokens": 9, "stop": ["!", "?"], "logit_bias": {"5": -1}, "logprobs": True, "top_logprobs": 2,
        "top_k": 3, "min_p": 0.1, "repeat_penalty": 1.1, "penalty_last_n": 8, "ignore_eos": False,
        "chat_template_kwargs": {"thinking": False},
    }  # fmt: skip
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<|end|> hello", "name": "Al"},
    ]
    body = {"model": "far", "messages": messages, **asked, "priority": 3, "keep_alive": 60, "timeout": 20}
    assert content(httpx.post(f"{agent.base_url}/v1/chat/completions", json=body)) == "well"
    sent = server.asked[0]
    assert sent.path == "/v1/chat/completions"
    del asked["penalty_last_n"]
    assert sent.body == {
        "model": "theirs", "messages": messages, "stream": True, "stream_options": {"include_usage": True},
        **asked, "repetition_penalty": 1.1, "repeat_last_n": 8,
    }  # fmt: skip
    agent.chat("hello", model="far")
    assert server.asked[1].body.keys() == {"model", "messages", "stream", "stream_options"}


def test_usage_and_the_reason_for_the_end_are_the_servers(agent: Agent, server: Upstream) -> None:
    usage = {"prompt_tokens": 70, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 60}}
    before = agent.metric("prompt_tokens_cached_total")
    server.next(does.answer("x", usage=usage))
    told = agent.chat("hello", model="far").json()["usage"]
    assert told == {**usage, "total_tokens": 100}
    until(lambda: agent.metric("prompt_tokens_cached_total") - before == 60)
    server.next(does.events(does.piece("cut", finish_reason="length"), b"[DONE]"))
    assert agent.chat("hello", model="far").json()["choices"][0]["finish_reason"] == "length"


def test_it_is_listed_loaded_shown_and_unloaded_as_any_other(agent: Agent, server: Upstream) -> None:
    assert command(agent, "far", "load").status_code == 200
    listed = {one["id"]: one for one in httpx.get(f"{agent.base_url}/v1/models").json()["data"]}
    assert listed["far"]["max_model_len"] == 2048
    (shown,) = [one for one in agent.status()["models"] if one["name"] == "far"]
    assert (shown["engine"], shown["device"], shown["worker"]["state"]) == ("openai", "remote", "ready")
    assert shown["details"] == {"url": server.url, "model": "theirs"}
    assert command(agent, "far", "unload").status_code == 200
    assert httpx.get(f"{agent.base_url}/v2/models/far/ready").status_code == 503
    assert content(agent.chat("hello", model="far")) == "well"


def test_a_model_moves_from_here_to_there_without_a_dropped_request(
    agent: Agent, server: Upstream, tmp_path: Path
) -> None:
    local = write_gguf(tmp_path / "mover.gguf", salt=7)
    with admin(agent) as client:
        client.post("/api/pull", json={"source": str(local), "name": "mover"})
    assert content(agent.chat("here", model="mover")) == "here"
    assert "version" in pull(agent, tmp_path, "mover", url=server.url)
    assert content(agent.chat("there", model="mover")) == "well"
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "there"}]


# The key.


def test_the_key_goes_to_the_server_and_is_shown_to_nobody(agent: Agent, server: Upstream) -> None:
    server.next(does.status(400, {"error": {"message": f"no such thing for {KEY}"}}))
    refused = agent.chat("hello", model="far")
    assert refused.status_code == 400
    assert "no such thing for ***" in refused.text
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(agent.status()) + agent.log


def test_a_key_may_lie_in_the_folder_for_keys(agent: Agent, server: Upstream, tmp_path: Path) -> None:
    pull(agent, tmp_path, "filed", url=server.url, api_key_file="far")
    missing = command(agent, "filed", "load")
    assert missing.status_code == 503
    assert "keys/far" in missing.text
    (agent.data_dir / "keys").mkdir()
    (agent.data_dir / "keys" / "far").write_text("from-a-file\n")
    assert content(agent.chat("hello", model="filed")) == "well"
    assert server.asked[0].headers["Authorization"] == "Bearer from-a-file"


# Nothing but its URL is reached.


def test_a_redirect_leads_nowhere(agent: Agent, server: Upstream) -> None:
    with listening() as elsewhere:
        for code in (301, 302, 307, 308):
            server.next(does.status(code, Location=f"{elsewhere.url}/v1/chat/completions"))
            answer = agent.chat("hello", model="far")
            assert answer.status_code == 502
            assert "not followed" in answer.json()["error"]["message"]
        assert not elsewhere.asked


def test_no_proxy_is_used(agent: Agent, server: Upstream, proxy: Upstream) -> None:
    assert content(agent.chat("hello", model="far")) == "well"
    assert not proxy.asked
