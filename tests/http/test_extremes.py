"""Whatever the door lets through, the Worker survives."""

from __future__ import annotations

from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.agent import Agent


def edges(low: float, high: float) -> st.SearchStrategy[float]:
    tiny = [low, high, low + 1e-300, low + 1e-30, low + 1e-7]
    return st.sampled_from(tiny) | st.floats(low, high)


allowed = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 3)},
    optional={
        "temperature": edges(0, 2),
        "top_p": edges(0, 1),
        "min_p": edges(0, 1),
        "top_k": st.sampled_from([-1, 0, 1, 2, 49_151, 1_000_000]),
        "presence_penalty": edges(-2, 2),
        "frequency_penalty": edges(-2, 2),
        "repeat_penalty": st.sampled_from([0.01, 0.5, 1, 10]),
        "repeat_last_n": st.sampled_from([0, 1, 65_536]),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "logit_bias": st.dictionaries(st.integers(0, 49_151).map(str), edges(-100, 100), max_size=5),
        "n": st.integers(1, 3),
        "stop": st.lists(st.text("ab é漢\n", min_size=1, max_size=4), max_size=3),
        "ignore_eos": st.booleans(),
        "priority": st.integers(0, 9),
        "timeout": st.sampled_from([1e-9, 60.0, 86_400.0]),
    },
)
prompts = st.text("ab <|>im_start\n\t é漢\U0001f600\u202e", min_size=1, max_size=30) | st.lists(
    st.integers(0, 49_151), min_size=1, max_size=8
)


def test_any_allowed_request_is_answered_and_costs_no_worker(agent: Agent) -> None:
    restarts = agent.metric("worker_restarts_total")
    with httpx.Client(base_url=agent.base_url, timeout=60) as client:

        @settings(max_examples=40, deadline=None)
        @given(body=allowed, prompt=prompts, logprobs=st.none() | st.integers(0, 20), echo=st.booleans())
        def ask(body: dict[str, Any], prompt: Any, logprobs: int | None, echo: bool) -> None:
            asked = {**body, "prompt": prompt} | ({"echo": True} if echo else {"logprobs": logprobs})
            answer = client.post("/v1/completions", json=asked)
            late = answer.status_code == 504 and body.get("timeout") == 1e-9
            assert late or answer.status_code == 200, answer.text
            if not late:
                assert [one["index"] for one in answer.json()["choices"]] == list(range(body.get("n", 1)))

        ask()
    assert agent.metric("worker_restarts_total") == restarts
