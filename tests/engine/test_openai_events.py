"""From the bytes of a stream in OpenAI's protocol to Chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.engines.openai_events import MOST_ANSWER, BadEvent, Cut, Events, Refused
from agent.request import Chunk, TokenLogprob, Usage


def event(*choices: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def delta(text: str, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish, **more}


def chunks(data: bytes, n: int = 1, *, size: int = 1 << 20, logprobs: bool = False) -> list[Chunk]:
    """What comes of these bytes where they arrive in pieces of `size`."""
    events = Events(n, 1, logprobs=logprobs)
    made = [chunk for at in range(0, len(data), size) for chunk in events.feed(data[at : at + size])]
    return made + events.end()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_bytes_may_arrive_in_any_pieces(size: int) -> None:
    data = b": hello\r\nevent: x\r\n" + event(delta("你好 ")).replace(b"\n", b"\r\n")
    data += (
        "data: " + json.dumps({"choices": [delta("a\u2028b\x85🎉")]}, ensure_ascii=False) + "\n\n"
    ).encode()
    data += event(delta("", finish="stop")) + b"data: [DONE]\n\n"
    assert "".join(chunk.text for chunk in chunks(data, size=size)) == "你好 a\u2028b\x85🎉"


def test_half_a_character_waits_for_its_other_half() -> None:
    data = b'data: {"choices":[{"delta":{"content":"x\\ud83c"}}]}\n\n'
    data += b'data: {"choices":[{"delta":{"content":"\\udf89"}}]}\n\n' + event(delta("", finish="stop"))
    assert [chunk.text for chunk in chunks(data)] == ["x", "🎉", ""]


def test_the_last_chunk_has_the_usage_that_comes_after_it() -> None:
    data = event(delta("a", 0), delta("b", 1)) + event(delta("", 1, "length")) + event(delta("c", 0, "stop"))
    data += event(usage={"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": None})
    made = chunks(data + b"data: [DONE]\n\n", n=2)
    assert [(one.index, one.text, one.finish) for one in made] == [
        (0, "a", None), (1, "b", None), (1, "", "length"), (0, "c", "stop"),
    ]  # fmt: skip
    assert [one.usage for one in made] == [None, None, None, Usage(9, 3, 0)]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("tool_calls", "stop")],
)
def test_reasons_for_the_end_are_those_that_callers_know(theirs: str, ours: str) -> None:
    assert chunks(event(delta("a", finish=theirs)))[-1].finish == ours


def test_an_answer_without_an_end_is_cut_unless_the_server_says_that_it_is_done() -> None:
    with pytest.raises(Cut):
        chunks(event(delta("a")))
    assert chunks(event(delta("a")) + b"data: [DONE]\n\n")[-1].finish == "stop"


def test_a_server_that_gives_fewer_answers_than_asked_for_has_failed() -> None:
    with pytest.raises(Refused):
        chunks(event(delta("a", finish="stop")) + b"data: [DONE]\n\n", n=2)


@pytest.mark.parametrize("n", [1, 2])
def test_an_answer_is_bounded_as_a_whole(n: int) -> None:
    part = "é" * (MOST_ANSWER // 8)  # a quarter, in bytes
    events = Events(n, 1, logprobs=False)
    for at in range(4):
        assert len(events.feed(event(delta(part, at % n)))) == 1
    with pytest.raises(BadEvent):
        events.feed(event(delta("x")))


@pytest.mark.parametrize("wrong", [-1, 2**53 + 1, 2**64, 2**70])
def test_counts_that_cannot_be_are_refused(wrong: int) -> None:
    details = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": wrong}}
    for usage in (
        {"prompt_tokens": wrong, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": wrong},
        details,
    ):
        with pytest.raises(BadEvent):
            chunks(event(usage=usage))


def test_log_probabilities_come_in_both_shapes() -> None:
    wanted = TokenLogprob(b"\xe4\xbd", -0.5, ((b"a", -1.0),))
    chat = {"content": [{"token": "?", "bytes": [0xE4, 0xBD], "logprob": -0.5,
                         "top_logprobs": [{"token": "a", "bytes": None, "logprob": -1.0}]}]}  # fmt: skip
    made = chunks(event(delta("x", finish="stop", logprobs=chat)), logprobs=True)
    assert (made[0].logprobs, made[0].tokens) == ((wanted,), 1)
    text = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"b": -0.5}]}
    made = chunks(event(delta("ab", finish="stop", logprobs=text)), logprobs=True)
    assert made[0].logprobs[1] == TokenLogprob(b"b", -0.5, ((b"b", -0.5),))
    with pytest.raises(BadEvent):
        chunks(event(delta("x", finish="stop", logprobs={"tokens": 5})), logprobs=True)
    huge = {"tokens": ["a"], "token_logprobs": [10**400]}
    with pytest.raises(BadEvent):
        chunks(event(delta("x", finish="stop", logprobs=huge)), logprobs=True)
