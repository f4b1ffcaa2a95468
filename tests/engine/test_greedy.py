"""Greedy answers of the batcher are those of llama.cpp alone, with the same KV type and flash attention.

Exactly, with one Sequence. In a full batch sums are taken in another order, so a logit may differ in its
last digits, and where the two best are nearly equal the other one may win. How that is judged: the reference
tells by how much the best logit was ahead at each token. Where that was less than NOISE either token is
right, and nothing is compared; between two such places the text must be the same, given the reference's own
tokens before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent import Agent

NOISE = (
    0.2  # logits; the greatest difference seen between a batch of 8 and one Sequence is below a half of it
)
COUNT = 24  # tokens
SUBJECTS = ["rain", "bread", "the moon", "trains", "glass", "bees", "chess", "rivers"]
SYSTEM = "<|im_start|>system\nYou are a careful assistant who answers in short sentences.<|im_end|>\n"
PROMPTS = [
    f"{SYSTEM}<|im_start|>user\nTell me about {subject}.<|im_end|>\n<|im_start|>assistant\n"
    for subject in SUBJECTS
]


@pytest.fixture(scope="module")
def fixed(start_agent: Callable[..., Agent], model_path: Path) -> Agent:
    return start_agent(
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(model_path),
        AUTOGLM_KV_TYPE="q8_0",
        AUTOGLM_MAX_BATCH_SIZE="8",
        AUTOGLM_CONTEXT="512",
    )


@pytest.fixture(scope="module")
def reference(fixed: Agent, model_path: Path) -> list[dict[str, Any]]:
    settings = {"slots": 1, "context": 512, "threads": 2, "kv_type": "q8_0", "flash_attention": "on"}
    task = {"model": str(model_path), "settings": {**settings, "step_tokens": 512}, "prompts": PROMPTS}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.reference"],
        input=json.dumps({**task, "count": COUNT}),
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def complete(agent: Agent, prompt: str | list[int], count: int = COUNT) -> str:
    body = {"prompt": prompt, "max_tokens": count, "temperature": 0}
    answer = httpx.post(f"{agent.base_url}/v1/completions", json=body, timeout=110)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def text_of(pieces: list[list[int]]) -> str:
    return b"".join(bytes(piece) for piece in pieces).decode("utf-8", "replace")


def stretches(answer: dict[str, Any]) -> list[tuple[int, int]]:
    """From which to which token of the answer noise could decide nothing."""
    count = len(answer["tokens"])
    close = [at for at, margin in enumerate(answer["margins"][:count]) if margin < NOISE]
    bounds = zip([0, *(at + 1 for at in close)], [*close, count], strict=True)
    return [(start, end) for start, end in bounds if start < end]


def test_one_sequence_alone_is_exactly_the_reference(fixed: Agent, reference: list[dict[str, Any]]) -> None:
    for prompt, expected in zip(PROMPTS[:2], reference[:2], strict=True):
        assert complete(fixed, prompt) == text_of(expected["pieces"])


def test_a_full_batch_with_a_shared_prefix_is_the_reference_but_for_noise(
    fixed: Agent, reference: list[dict[str, Any]]
) -> None:
    told = [(answer, start, end) for answer in reference for start, end in stretches(answer)]

    def ask(of: tuple[dict[str, Any], int, int]) -> str:
        answer, start, end = of
        return complete(fixed, answer["prompt"] + answer["tokens"][:start], end - start)

    with ThreadPoolExecutor(len(told)) as pool:
        answers = list(pool.map(ask, told))
    assert answers == [text_of(answer["pieces"][start:end]) for answer, start, end in told]
    compared = sum(end - start for _, start, end in told)
    assert compared > 0.6 * sum(len(answer["tokens"]) for answer in reference)


def test_a_seed_gives_the_same_text_alone_and_again(fixed: Agent) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": COUNT, "temperature": 0.9, "seed": 11}
    texts = {
        httpx.post(f"{fixed.base_url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        for _ in range(3)
    }
    assert len(texts) == 1


def test_many_byte_characters_and_stop_strings_stream_as_the_unstreamed_text(fixed: Agent) -> None:
    prompt = (
        "Emoji for joy, love, a cat, rain, and 'hello' in two languages: 😀 ❤️ 🐱 🌧️ 你好 こんにちは. Again: 😀"
    )
    for stop in (None, ["你"], ["\n", " 🐱"]):
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": COUNT, "temperature": 0, "stop": stop}
        whole = complete_with(fixed, body)
        parts = []
        with httpx.stream(
            "POST", f"{fixed.base_url}/v1/completions", json={**body, "stream": True}, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    parts.append(json.loads(line[6:])["choices"][0]["text"])
        assert "".join(parts) == whole
        assert not any(one in whole for one in stop or [])


def complete_with(agent: Agent, body: dict[str, Any]) -> str:
    text: str = httpx.post(f"{agent.base_url}/v1/completions", json=body, timeout=60).json()["choices"][0][
        "text"
    ]
    return text
