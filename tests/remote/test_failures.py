"""What goes wrong at a remote Model's server: tried again where that may help, and told."""

from __future__ import annotations

import httpx
import pytest

from tests.remote.conftest import CHAT, content, lines, worker_of
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.upstream import Upstream


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
    worker = worker_of(agent, "quick")
    server.next(wrong)
    answer = agent.chat("hello", model="quick")
    assert answer.status_code == 502, answer.text
    assert content(agent.chat("hello", model="quick")) == "well"
    assert worker_of(agent, "quick") == worker


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
