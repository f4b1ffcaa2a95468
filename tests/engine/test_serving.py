"""Admission as callers meet it: bounds, deadlines, priorities, fairness, limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import pytest

from tests.support.agent import Agent


@pytest.fixture(scope="module")
def slow(start_agent: Callable[..., Agent]) -> Agent:
    """One slot, and answers that take their time."""
    return start_agent(ECHO_STEP_SECONDS="0.02", AUTOGLM_MAX_BATCH_SIZE="1", AUTOGLM_QUEUE_REQUESTS="12")


def fill(pool: ThreadPoolExecutor, agent: Agent, count: int, text: str = "0123456789" * 3) -> list[object]:
    """Requests that keep the slot, and the places behind it, busy."""
    futures: list[object] = [pool.submit(agent.chat, f"{text} {at}") for at in range(count)]
    until = time.monotonic() + 10
    while agent.status()["running"] < min(count, 5) and time.monotonic() < until:
        time.sleep(0.02)
    return futures


def test_a_full_queue_answers_429_with_retry_after(slow: Agent) -> None:
    with ThreadPoolExecutor(24) as pool:
        answers = [one.result() for one in [pool.submit(slow.chat, "0123456789") for _ in range(24)]]
    refused = [one for one in answers if one.status_code == 429]
    assert refused
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert all(one.status_code in (200, 429) for one in answers)
    assert sum(one.status_code == 200 for one in answers) >= 12


def test_a_request_past_its_deadline_is_dropped_before_it_costs_a_step(slow: Agent) -> None:
    with ThreadPoolExecutor(8) as pool:
        fill(pool, slow, 6)
        computed = slow.metric("prompt_tokens_total")
        late = slow.chat("never computed " * 30, timeout=0.3)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert slow.metric("prompt_tokens_total") - computed < 400
    assert slow.chat("fine").status_code == 200


def test_a_higher_priority_is_served_before_those_that_wait(slow: Agent) -> None:
    with ThreadPoolExecutor(12) as pool:
        fill(pool, slow, 5)
        futures = {pool.submit(slow.chat, "0123456789", priority=1): "low" for _ in range(4)}
        time.sleep(0.2)
        futures[pool.submit(slow.chat, "0123456789", priority=9)] = "high"
        order = [futures[one] for one in as_completed(futures)]
    assert order[0] == "high"


def test_a_key_over_its_rate_gets_429_and_others_do_not(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[[api_keys]]\nname = "small"\nkey = "s"\nrequests_per_minute = 2\n'
        '[[api_keys]]\nname = "big"\nkey = "b"\n'
    )
    agent = start_agent(AUTOGLM_CONFIG=str(config))

    def ask(key: str) -> int:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {key}"}
        url = f"{agent.base_url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=30).status_code

    assert [ask("s") for _ in range(4)] == [200, 200, 429, 429]
    assert [ask("b") for _ in range(4)] == [200] * 4


def test_a_template_that_refuses_or_loops_is_a_clear_400_and_the_next_request_is_fine(
    echo_agent: Agent,
) -> None:
    refused = echo_agent.chat("<refuse>")
    assert refused.status_code == 400
    assert "told to refuse" in refused.json()["error"]["message"]
    looped = echo_agent.chat("<loop>")
    assert looped.status_code == 400
    assert "did not end" in looped.json()["error"]["message"]
    assert echo_agent.chat("fine").json()["choices"][0]["message"]["content"] == "fine"


def test_a_template_that_makes_invalid_unicode_is_a_clear_400(echo_agent: Agent) -> None:
    refused = echo_agent.chat("<surrogate>")
    assert refused.status_code == 400
    assert "invalid Unicode" in refused.json()["error"]["message"]
    assert echo_agent.chat("fine").status_code == 200


def test_a_sender_that_floods_the_queue_leaves_others_their_share(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[[api_keys]]\nname = "flood"\nkey = "f"\n[[api_keys]]\nname = "modest"\nkey = "m"\n')
    agent = start_agent(
        AUTOGLM_CONFIG=str(config),
        AUTOGLM_QUEUE_REQUESTS="8",
        AUTOGLM_MAX_BATCH_SIZE="1",
        ECHO_STEP_SECONDS="0.01",
    )

    def ask(key: str) -> int:
        body = {"messages": [{"role": "user", "content": "0123456789" * 2}]}
        headers = {"authorization": f"Bearer {key}"}
        url = f"{agent.base_url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(40) as pool:
        flood = [pool.submit(ask, "f") for _ in range(36)]
        time.sleep(0.3)
        modest = [pool.submit(ask, "m") for _ in range(3)]
        assert [one.result() for one in modest] == [200] * 3
        assert 429 in {one.result() for one in flood}


def test_a_body_with_more_prompts_than_the_queue_holds_is_told_so(slow: Agent) -> None:
    body = {"prompt": ["a"] * 13, "max_tokens": 1}
    answer = httpx.post(f"{slow.base_url}/v1/completions", json=body, timeout=30)
    assert answer.status_code == 400
    assert "queue holds 12" in answer.json()["error"]["message"]


def test_the_prompts_of_one_body_come_in_together_or_not_at_all(slow: Agent) -> None:
    with ThreadPoolExecutor(8) as pool:
        fill(pool, slow, 8)
        waiting = slow.status()["queue"]["requests"]
        body = {"prompt": ["a"] * (13 - waiting), "max_tokens": 1}
        answer = httpx.post(f"{slow.base_url}/v1/completions", json=body, timeout=30)
        assert answer.status_code == 429
        assert slow.status()["queue"]["requests"] <= waiting
    assert slow.chat("fine").status_code == 200


def test_several_answers_to_a_fresh_prompt_count_nothing_as_cached(echo_agent: Agent) -> None:
    body = {"prompt": "quite fresh " * 20, "n": 4, "max_tokens": 4}
    usage = httpx.post(f"{echo_agent.base_url}/v1/completions", json=body, timeout=30).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] < 20
    assert usage["completion_tokens"] == 16


def test_a_stop_in_good_order_lets_running_answers_end(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(ECHO_STEP_SECONDS="0.02")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(agent.chat, "x" * 60)
        until = time.monotonic() + 10
        while not agent.status()["running"] and time.monotonic() < until:
            time.sleep(0.02)
        assert agent.stop() == 0
        assert running.result().status_code == 200
        assert running.result().json()["choices"][0]["message"]["content"] == "x" * 60


def test_a_second_signal_ends_running_answers_at_once(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(ECHO_STEP_SECONDS="0.1", AUTOGLM_DRAIN_S="600")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(agent.chat, "x" * 600)
        while not agent.status()["running"]:
            time.sleep(0.02)
        assert agent.process is not None
        agent.process.terminate()
        while "second signal" not in agent.log:
            time.sleep(0.02)
        assert agent.stop() == 0
        assert running.result().status_code == 503


def test_neither_an_oversized_request_nor_one_over_its_limit_costs_others_their_places(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[[api_keys]]\nname = "many"\nkey = "m"\n'
        '[[api_keys]]\nname = "greedy"\nkey = "g"\n'
        '[[api_keys]]\nname = "limited"\nkey = "l"\nrequests_per_minute = 1\n'
    )
    agent = start_agent(
        AUTOGLM_CONFIG=str(config),
        AUTOGLM_QUEUE_REQUESTS="8",
        AUTOGLM_QUEUE_TOKENS="30000",
        AUTOGLM_MAX_BATCH_SIZE="1",
        ECHO_STEP_SECONDS="0.02",
    )

    def ask(key: str, **more: object) -> int:
        body = {"messages": [{"role": "user", "content": "0123456789" * 2}], **more}
        headers = {"authorization": f"Bearer {key}"}
        url = f"{agent.base_url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=60).status_code

    assert ask("l") == 200  # its limit is used up
    with ThreadPoolExecutor(13) as pool:
        many = [pool.submit(ask, "m") for _ in range(12)]
        time.sleep(0.3)
        assert ask("g", n=16, max_tokens=100_000) == 429
        assert ask("l") == 429
        assert [one.result() for one in many] == [200] * 12
