"""Chunks become OpenAI's objects; a stream says what the whole answer says."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agent.doors.openai.answers import Answer, Stream
from agent.doors.openai.bodies import ChatBody, CompletionBody
from agent.doors.openai.requests import read
from agent.request import Chunk, TokenLogprob, Usage

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def chat_body(**body: Any) -> ChatBody:
    return read(json.dumps({"messages": [{"role": "user", "content": "x"}], **body}).encode(), ChatBody)


def completion_body(**body: Any) -> CompletionBody:
    return read(json.dumps({"prompt": "x", **body}).encode(), CompletionBody)


@given(st.lists(st.tuples(st.integers(0, 2), texts), max_size=20))
def test_a_stream_put_together_is_the_whole_answer(said: list[tuple[int, str]]) -> None:
    body = chat_body(n=3, stream=True, stream_options={"include_usage": True})
    chunks = [Chunk(index, text, 1) for index, text in said]
    chunks += [Chunk(0, "", finish="stop"), Chunk(1, "", finish="length")]
    chunks += [Chunk(2, "end", 1, finish="stop", usage=Usage(5, 7, 2))]
    answer, stream = (
        Answer(body, id="i", model="m", version=lambda: "v"),
        Stream(body, id="i", model="m", version=lambda: "v"),
    )
    events = []
    for chunk in chunks:
        answer.add(chunk)
        events += stream.events(chunk)
    events += stream.ending()
    seen = [ChatCompletionChunk.model_validate_json(event) for event in events]
    whole = ChatCompletion.model_validate(answer.completion())
    for choice in whole.choices:
        own = [one.choices[0] for one in seen if one.choices and one.choices[0].index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in own) == choice.message.content
        assert [one.finish_reason for one in own if one.finish_reason] == [choice.finish_reason]
    assert seen[-1].usage == whole.usage
    assert all(one.usage is None for one in seen[:-1])


def test_several_prompts_lay_out_their_answers_one_after_the_other() -> None:
    body = completion_body(prompt=["a", "b"], n=2)
    answer = Answer(body, id="i", model="m", version=lambda: "v")
    for prompt, index in ((1, 1), (0, 0), (1, 0), (0, 1)):
        usage = Usage(3, 1, 1) if index == 1 else None
        answer.add(Chunk(index, f"{prompt}{index}", 1, finish="stop", usage=usage), prompt)
    whole = Completion.model_validate(answer.completion())
    assert [(one.index, one.text) for one in whole.choices] == [(0, "00"), (1, "01"), (2, "10"), (3, "11")]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (6, 2, 8)
    stream = Stream(body, id="i", model="m", version=lambda: "v")
    (event,) = stream.events(Chunk(1, "x"), 1)
    assert json.loads(event)["choices"][0]["index"] == 3


def test_an_answer_that_began_anew_drops_what_came_before() -> None:
    answer = Answer(chat_body(), id="i", model="m", version=lambda: "v")
    answer.add(Chunk(0, "lost", 1))
    answer.add(Chunk(0, "kept", 1, finish="stop", attempt=2))
    assert answer.completion()["choices"][0]["message"]["content"] == "kept"


def test_logprobs_have_openais_shapes() -> None:
    token = TokenLogprob("é".encode(), -0.5, ((b"\xff", -math.inf), ("é".encode(), -0.5)))
    chat = Answer(chat_body(logprobs=True, top_logprobs=2), id="i", model="m", version=lambda: "v")
    chat.add(Chunk(0, "é", 1, (token,), finish="stop"))
    logprobs = ChatCompletion.model_validate(chat.completion()).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert (logprobs.content[0].token, logprobs.content[0].bytes) == ("é", [195, 169])
    assert [(one.bytes, one.logprob) for one in logprobs.content[0].top_logprobs] == [
        ([255], -9999.0),
        ([195, 169], -0.5),
    ]
    plain = Answer(completion_body(logprobs=1), id="i", model="m", version=lambda: "v")
    plain.add(Chunk(0, "éa", 2, (token, TokenLogprob(b"a", -1.0)), finish="stop"))
    told = Completion.model_validate(plain.completion()).choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["é", "a"], [-0.5, -1.0], [0, 1])


def test_offsets_go_on_through_a_stream() -> None:
    stream = Stream(completion_body(logprobs=0, stream=True), id="i", model="m", version=lambda: "v")
    offsets = [
        json.loads(stream.events(Chunk(0, text, 1, (TokenLogprob(text.encode(), -1.0),)))[0])["choices"][0][
            "logprobs"
        ]["text_offset"]
        for text in ("ab", "é", "c")
    ]
    assert offsets == [[0], [2], [3]]


def test_logprobs_are_null_unless_asked_for() -> None:
    chunk = Chunk(0, "a", 1, (TokenLogprob(b"a", -1.0),), finish="stop")
    answer, stream = (
        Answer(chat_body(), id="i", model="m", version=lambda: "v"),
        Stream(chat_body(), id="i", model="m", version=lambda: "v"),
    )
    answer.add(chunk)
    assert answer.completion()["choices"][0]["logprobs"] is None
    assert all(json.loads(event)["choices"][0]["logprobs"] is None for event in stream.events(chunk))
