"""A caller that goes away frees what it held; one that is merely slow holds up nobody."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.http.wire import dial, post, read_answer, until
from tests.support.agent import Agent

CHAT = "/v1/chat/completions"


def endless(*, stream: bool, content: str = "<slow 0.05>again", **more: object) -> bytes:
    """A minute of answer at least, if nobody stops it."""
    message = {"role": "user", "content": content}
    return post(
        CHAT, {"messages": [message], "ignore_eos": True, "max_tokens": 2000, "stream": stream, **more}
    )


@pytest.fixture(autouse=True)
def it_is_idle_before_and_after(echo_agent: Agent) -> Iterator[None]:
    until(lambda: running(echo_agent) == (0, 0), "the agent is idle")
    yield
    until(lambda: running(echo_agent) == (0, 0), "the agent is idle again")


def running(agent: Agent) -> tuple[int, int]:
    """Requests, and Sequences in the Worker."""
    told = agent.status()
    return told["running"], told["worker"]["sequences"]["running"]


def test_a_stream_that_is_closed_frees_its_sequence(echo_agent: Agent) -> None:
    with dial(echo_agent) as client:
        client.sendall(endless(stream=True))
        assert b"200 OK" in client.recv(4096)
        until(lambda: running(echo_agent) == (1, 1), "the Sequence runs")
    until(lambda: running(echo_agent) == (0, 0), "the Sequence is freed")


def test_a_caller_who_does_not_wait_for_the_answer_frees_its_sequence(echo_agent: Agent) -> None:
    with dial(echo_agent) as client:
        client.sendall(endless(stream=False))
        until(lambda: running(echo_agent) == (1, 1), "the Sequence runs")
    until(lambda: running(echo_agent) == (0, 0), "the Sequence is freed")


def test_a_reset_frees_all_sequences_of_all_prompts(echo_agent: Agent) -> None:
    client = dial(echo_agent)
    body = {"prompt": ["<slow 0.05>a", "<slow 0.05>b"], "n": 2, "ignore_eos": True, "max_tokens": 2000}
    client.sendall(post("/v1/completions", body))
    until(lambda: running(echo_agent) == (2, 4), "all Sequences run")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: running(echo_agent) == (0, 0), "all are freed")


def test_a_cancelled_request_is_counted(echo_agent: Agent) -> None:
    before = echo_agent.metric("request_failure_total")
    with dial(echo_agent) as client:
        client.sendall(endless(stream=True))
        client.recv(4096)
    until(lambda: echo_agent.metric("request_failure_total") == before + 1, "it is counted")


def test_a_slow_reader_holds_up_nobody_and_gets_everything_in_the_end(echo_agent: Agent) -> None:
    with dial(echo_agent, receive_buffer=4096) as client:
        client.sendall(endless(stream=True, content="slowly", n=4))
        until(lambda: running(echo_agent) == (0, 0), "the answer is complete")
        assert echo_agent.chat("quick").status_code == 200
        seen = b""
        while b"data: [DONE]" not in seen[-64:]:
            piece = client.recv(1 << 16)
            assert piece
            seen += piece
        assert seen.count(b'"finish_reason":"length"') == 4


def test_a_worker_that_dies_in_mid_stream_is_an_error_event_and_the_end(echo_agent: Agent) -> None:
    with dial(echo_agent) as client:
        client.sendall(endless(stream=True, content="<crash-after 3>abcdef"))
        seen = b""
        while b"0\r\n\r\n" not in seen[-5:]:
            piece = client.recv(65536)
            assert piece
            seen += piece
    lines = [line for line in seen.decode().splitlines() if line.startswith("data: ")]
    assert json.loads(lines[-1][6:])["error"]["code"] == "worker_lost"
    echo_agent.wait("/readyz")


def test_a_caller_who_leaves_in_mid_body_is_no_fault_of_the_node(echo_agent: Agent) -> None:
    before = echo_agent.metric("http_requests_total")
    with dial(echo_agent) as client:
        client.sendall(post(CHAT, {"messages": []})[:-5])
    until(lambda: echo_agent.metric("http_requests_total") > before + 1, "it is counted")
    assert "Traceback" not in echo_agent.log


def test_requests_in_a_pipeline_are_answered_in_turn(echo_agent: Agent) -> None:
    with dial(echo_agent) as client:
        asked = post(CHAT, {"messages": [{"role": "user", "content": "one"}]})
        client.sendall(asked + asked)
        assert read_answer(client).status == 200
        assert read_answer(client).status == 200
