"""What a Worker's death, a caller that goes away and a full house do to embeddings: with the echo Engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.agent import Agent


@pytest.fixture(scope="module")
def echo(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(AUTOGLM_QUEUE_REQUESTS="8", AUTOGLM_MAX_BATCH_SIZE="2")


def ask(agent: Agent, given: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{agent.base_url}/v1/embeddings", json={"input": given, **more}, timeout=60)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_embedding_whose_worker_dies_is_made_by_the_next(echo: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, echo, ["<slow 1>aaa", "e"])
        until(lambda: echo.status()["running"])
        os.kill(echo.worker_pid or 0, signal.SIGKILL)
        assert answer.result().status_code == 200
    assert answer.result().json()["data"] == ask(echo, ["<slow 0>aaa", "e"]).json()["data"]


def test_a_text_that_kills_its_workers_is_found_out_and_its_neighbours_are_served(echo: Agent) -> None:
    with ThreadPoolExecutor(4) as pool:
        guilty = pool.submit(ask, echo, "<crash>")
        others = [pool.submit(ask, echo, f"a{at}") for at in range(3)]
        assert guilty.result().status_code == 500
        assert "3 Workers" in guilty.result().json()["error"]["message"]
        assert [one.result().status_code for one in others] == [200] * 3
    echo.wait("/readyz")


def test_a_caller_that_goes_away_frees_its_place(echo: Agent) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{echo.base_url}/v1/embeddings", json={"input": ["<slow 0.3>a"] * 8}, timeout=httpx.Timeout(0.2)
        )
    until(lambda: not echo.status()["running"] and not echo.status()["queue"]["requests"])
    assert ask(echo, "a").status_code == 200


def test_a_deadline_that_passes_is_told(echo: Agent) -> None:
    answer = ask(echo, ["<slow 0.5>a", "<slow 0.5>b", "<slow 0.5>c" + "x" * 200], timeout=0.3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_full_queue_is_told_and_a_body_that_no_queue_holds(echo: Agent) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, echo, ["<slow 0.2>a"] * 8) for _ in range(6)]
        codes = sorted(one.result().status_code for one in answers)
    assert set(codes) == {200, 429}
    refused = ask(echo, ["a"] * 9)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


def test_tokens_and_texts_are_counted_in_the_metrics(echo: Agent) -> None:
    before = echo.metric("prompt_tokens_total"), echo.metric("request_success_total")
    assert ask(echo, ["aaaa", "ee"]).json()["usage"]["prompt_tokens"] == 6
    until(lambda: echo.metric("prompt_tokens_total") == before[0] + 6)
    assert echo.metric("request_success_total") == before[1] + 2
