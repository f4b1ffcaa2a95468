"""The official client, against the real model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.agent import Agent

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "Name three colours."}]
Connect = Callable[..., OpenAI]


@pytest.fixture
def client(agent: Agent, connect: Connect) -> OpenAI:
    return connect(agent)


def test_a_chat_is_answered_with_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=12, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.system_fingerprint is not None
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    events = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == (
        whole.choices[0].message.content
    )
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-2].choices[0].finish_reason == "length"
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == 24
    assert len({event.id for event in events}) == 1


def test_without_stream_options_a_stream_has_no_usage(client: OpenAI) -> None:
    events = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2, stream=True)
    assert all(event.usage is None and event.choices for event in events)


def test_a_prompt_asked_again_comes_from_the_cache(client: OpenAI) -> None:
    for _ in range(2):
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert 0 < (answer.usage.prompt_tokens_details.cached_tokens or 0) < answer.usage.prompt_tokens


async def test_the_asynchronous_client_streams_too(agent: Agent) -> None:
    async with AsyncOpenAI(base_url=agent.base_url + "/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=4, stream=True
        )
        assert [event async for event in stream][-1].choices[0].finish_reason == "length"


def test_n_answers_to_one_prompt(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=8, n=3, temperature=1.0, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "1 2 3 4 5", "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[6:9]
    cut = client.completions.create(**asked, stop=[stop]).choices[0]
    assert cut.text == whole.partition(stop)[0]
    assert cut.finish_reason == "stop"


def test_logprobs_of_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert token.logprob <= 0
        assert token.top_logprobs[0].token == token.token  # greedy draws the likeliest
        assert len(token.top_logprobs) == 3
        assert bytes(token.bytes or []).decode() == token.token


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The sky is", max_tokens=4, temperature=0, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert [choice.text[offset:][:1] for offset in choice.logprobs.text_offset or []] == [
        token[:1] for token in choice.logprobs.tokens or []
    ]


def test_a_list_of_prompts_is_answered_in_order(client: OpenAI) -> None:
    prompts = ["The sky is", "Two and two make", "Once upon a time"]
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    alone = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in prompts]
    together = client.completions.create(prompt=prompts, **asked)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.text[:6] for choice in together.choices] == [text[:6] for text in alone]


def test_echo_begins_with_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The sky is", max_tokens=2, echo=True)
    assert answer.choices[0].text.startswith("The sky is")


def test_the_models_are_listed_and_looked_at(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def test_errors_have_the_clients_own_classes(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=QUESTION)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("owner/nope")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=9)
    assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")


@pytest.mark.parametrize("wrong", [{"prompt": [999_999]}, {"prompt": "a", "logit_bias": {"999999": 1}}])
def test_a_token_that_the_model_does_not_have_is_an_error(
    agent: Agent, client: OpenAI, wrong: dict[str, Any]
) -> None:
    worker = agent.worker_pid
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model=MODEL, **wrong)
    assert agent.worker_pid == worker


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_an_error_and_not_a_stream(client: OpenAI, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"
