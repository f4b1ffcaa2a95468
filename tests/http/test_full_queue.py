"""A full queue refuses at once, and says when to come again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from tests.http.wire import ask, dial, post, until
from tests.support.agent import Agent

SLOW = {"messages": [{"role": "user", "content": "<slow 0.2>x"}], "ignore_eos": True, "max_tokens": 1000}


def test_a_full_queue_is_a_429_with_retry_after(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(AUTOGLM_MAX_BATCH_SIZE="1", AUTOGLM_QUEUE_REQUESTS="1")
    with ExitStack() as stack:
        while agent.status()["queue"]["requests"] == 0:
            before = agent.status()["running"]
            stack.enter_context(dial(agent)).sendall(post("/v1/chat/completions", SLOW))
            until(lambda seen=before: in_all(agent) > seen, "it is taken in")  # type: ignore[misc]
        refused = ask(agent, post("/v1/chat/completions", SLOW))
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: in_all(agent) == 0, "those who left gave up their places")
    assert agent.chat("room again").status_code == 200


def in_all(agent: Agent) -> int:
    told = agent.status()
    total: int = told["running"] + told["queue"]["requests"]
    return total
