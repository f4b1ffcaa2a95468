"""A rate limit counts bodies: an embedding is one request, of however many texts, by either engine."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.agent import Agent
from tests.support.bert import Bert


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """With the echo Engine, and a small BERT by onnxruntime. Callers have four requests a minute."""
    agent = start_agent(AUTOGLM_ANONYMOUS_LIMIT='{"requests_per_minute": 4}')
    agent.pull(Bert().write_folder(tmp_path_factory.mktemp("models") / "bert"), "bert")
    return agent


def test_an_embedding_of_many_texts_is_one_request(agent: Agent) -> None:
    def ask(model: str) -> int:
        body = {"model": model, "input": ["dog"] * 40}
        return httpx.post(f"{agent.base_url}/v1/embeddings", json=body, timeout=60).status_code

    assert [ask(model) for model in ("bert", "echo", "bert", "echo")] == [200] * 4
    for model in ("bert", "echo"):  # a few, since one more is let in every 15 seconds
        assert 429 in {ask(model) for _ in range(8)}
