"""A Model that another server runs, by OpenAI's protocol: what goes there, what comes back, what fails."""

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
from tests.support.gguf_file import write_gguf
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


@pytest.fixture(scope="module")
def proxy() -> Iterator[Upstream]:
    """What the agent's environment names as a proxy."""
    with listening() as one:
        yield one


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    """A server that answers "well", with a model "theirs"."""
    listed = {"data": [{"id": "theirs", "max_model_len": 2048}]}
    one = Upstream(gets={"/v1/models": listed}, good=does.answer("we", "ll")).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def agent(
    start_agent: Callable[..., Agent],
    server: Upstream,
    proxy: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Agent:
    """One whose default is a local echo; "far" is the server's, by its key; so is "quick", which gives up."""
    agent = start_agent(
        HTTP_PROXY=proxy.url,
        http_proxy=proxy.url,
        ALL_PROXY=proxy.url,
        FAR_API_KEY=KEY,
        NO_PROXY="",
        no_proxy="",
    )
    folder = tmp_path_factory.mktemp("remote")
    assert "version" in pull(agent, folder, "far", url=server.url, api_key_env="FAR_API_KEY", timeout_s=20)
    assert "version" in pull(agent, folder, "quick", url=server.url, timeout_s=1.5, retries=0)
    return agent


@pytest.fixture(autouse=True)
def _well(server: Upstream) -> None:
    server.next()


# What goes there, and what comes back.


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


# What goes wrong there.


@pytest.mark.parametrize("code", [502, 503, 504, 429])
def test_what_may_be_better_soon_is_tried_again(agent: Agent, server: Upstream, code: int) -> None:
    server.next(does.status(code), does.status(code))
    assert content(agent.chat("hello", model="far")) == "well"
    assert len(server.asked) == 3


def test_it_is_tried_as_often_as_was_said_and_then_the_servers_reason_is_told(
    agent: Agent, server: Upstream
) -> None:
    server.next(*[does.status(503)] * 4)
    answer = agent.chat("hello", model="far")
    assert (answer.status_code, len(server.asked)) == (503, 3)
    assert "told so" in answer.json()["error"]["message"]


def test_a_stream_that_ends_before_its_first_piece_is_tried_again(agent: Agent, server: Upstream) -> None:
    server.next(does.events(), does.events({"choices": []}))
    assert content(agent.chat("hello", model="far")) == "well"
    assert len(server.asked) == 3


def test_an_answer_that_has_begun_is_never_tried_again(agent: Agent, server: Upstream) -> None:
    server.next(does.events(does.piece("half")))
    answer = httpx.post(
        f"{agent.base_url}/v1/chat/completions", json=CHAT | {"model": "far", "stream": True}, timeout=20
    )
    assert len(server.asked) == 1
    *_, half, error = lines(answer)
    assert half["choices"][0]["delta"] == {"content": "half"}
    assert error["error"]["code"] == "model_unavailable"


@pytest.mark.parametrize(
    ("code", "becomes", "word"),
    [
        (400, 400, "invalid_request"),
        (422, 400, "invalid_request"),
        (401, 502, "upstream_failed"),
        (403, 502, "upstream_failed"),
        (404, 502, "upstream_failed"),
        (500, 502, "upstream_failed"),
    ],
)
def test_the_servers_error_is_told_once_with_the_right_status(
    agent: Agent, server: Upstream, code: int, becomes: int, word: str
) -> None:
    server.next(does.status(code))
    answer = agent.chat("hello", model="far")
    assert (answer.status_code, answer.json()["error"]["code"], len(server.asked)) == (becomes, word, 1)


def test_a_server_that_wants_a_long_pause_is_not_waited_for(agent: Agent, server: Upstream) -> None:
    server.next(does.status(429, Retry_After="90"))
    answer = agent.chat("hello", model="far")
    assert (answer.status_code, answer.headers["retry-after"], len(server.asked)) == (429, "90", 1)


def test_a_prompt_that_is_too_long_there_is_so_here(agent: Agent, server: Upstream) -> None:
    said = {"error": {"message": "too many tokens", "code": "context_length_exceeded"}}
    server.next(does.status(400, said))
    assert agent.chat("hello", model="far").json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "wrong",
    [
        does.events(b"no json"),
        does.events(b"[" * 100_000),
        does.events({"choices": [{"index": "zero"}]}),
        does.events(does.piece("of another", index=7)),
        does.events(b"x" * (3 << 20)),
        does.events(*[{"choices": [{"delta": {"content": "x" * 900_000}}]}] * 20),
        does.answer("x", usage={"prompt_tokens": 1 << 70, "completion_tokens": 1}),
        does.events({"error": {"message": "out of memory", "code": 500}}),
        does.events(does.piece("", finish_reason="abort")),
        does.status(200, b"<html>hello</html>", Content_Type="text/html"),
        does.status(500, b"[" * 100_000),
        does.status(500, b"x" * (1 << 20)),
    ],
    ids=[
        "text",
        "deep",
        "kind",
        "index",
        "long",
        "endless",
        "usage",
        "error",
        "abort",
        "page",
        "deep error",
        "long error",
    ],
)
def test_rubbish_ends_that_request_alone(agent: Agent, server: Upstream, wrong: does.Step) -> None:
    assert content(agent.chat("hello", model="quick")) == "well"
    worker = _worker(agent, "quick")
    server.next(wrong)
    answer = agent.chat("hello", model="quick")
    assert answer.status_code == 502, answer.text
    assert content(agent.chat("hello", model="quick")) == "well"
    assert _worker(agent, "quick") == worker


def test_a_silent_server_is_given_up_after_its_timeout(agent: Agent, server: Upstream) -> None:
    server.next(does.hang)
    answer = agent.chat("hello", model="quick")
    assert (answer.status_code, len(server.asked)) == (504, 1)
    assert server.gone.wait(5)


def test_the_callers_deadline_ends_it_there_too(agent: Agent, server: Upstream) -> None:
    server.next(does.begin_and_hang)
    assert agent.chat("hello", model="far", timeout=0.5).status_code == 504
    assert server.gone.wait(5)


def test_a_caller_that_goes_away_ends_it_there_too(agent: Agent, server: Upstream) -> None:
    server.next(does.begin_and_hang)
    body = CHAT | {"model": "far", "stream": True}
    with httpx.stream("POST", f"{agent.base_url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()  # kept: one that is dropped closes the connection
        assert any("first" in line for line in lines)
        assert not server.gone.is_set()
    assert server.gone.wait(5)


def _worker(agent: Agent, name: str) -> Any:
    return next(one["worker"].get("pid") for one in agent.status()["models"] if one["name"] == name)


# Whether it is there.


def test_while_the_server_is_away_the_worker_lives_and_says_so(agent: Agent, tmp_path: Path) -> None:
    there = Upstream(gets={"/v1/models": {"data": [{"id": "theirs"}]}}, good=does.answer("back")).start()
    pull(agent, tmp_path, "away", url=there.url)
    assert content(agent.chat("hello", model="away")) == "back"
    worker = _worker(agent, "away")
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
    assert _worker(agent, "away") == worker
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
