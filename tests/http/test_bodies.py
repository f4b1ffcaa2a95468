"""Bodies: any bytes become a valid Request or a BadRequest, and nothing else."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Settings
from agent.doors.openai.bodies import ChatBody, CompletionBody
from agent.doors.openai.requests import body_of, read, requests
from agent.doors.openai.strict_json import load_object
from agent.errors import BadRequest
from agent.request import Request

SETTINGS = Settings.model_construct(max_tokens=1000)
HELLO = {"role": "user", "content": "hello"}
FIELDS = sorted({*ChatBody.model_fields, *CompletionBody.model_fields, "grammar", "tools", "response_format"})

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé漢1 "\0\ud800', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("a\ud800", max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "tool", "x"]), "content": anything}),
    max_size=3,
)
near_bodies = st.tuples(
    st.fixed_dictionaries({}, optional={"messages": messages, "prompt": anything}),
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4),
).map(lambda parts: {**parts[0], **parts[1]})


@pytest.mark.parametrize("part", ["[],", "{},", '"",', "1,", '{"a":"b"},', '"\\\\",'])
def test_a_body_of_millions_of_values_is_refused(part: str) -> None:
    with pytest.raises(BadRequest, match="more than"):
        load_object(('{"x":[' + part * 1_000_000 + "1]}").encode())


def test_long_conversations_and_prompts_pass() -> None:
    code = (
        'if (a[0] == "\\" || b[1] == "\\"") { f(1, 2, 3); } ' * 30_000
    )  # brackets, quotes and commas in text
    turns = [{"role": role, "content": code[:400]} for role in ("user", "assistant")] * 2000
    load_object(json.dumps({"messages": turns}).encode())
    load_object(json.dumps({"prompt": code}).encode())
    load_object(json.dumps({"prompt": list(range(128 * 1024))}).encode())


def chat(**body: Any) -> Request:
    (request,) = requests(read(encode(messages=[HELLO], **body), ChatBody), SETTINGS, id="x", sender="s")
    return request


def completion(**body: Any) -> list[Request]:
    return requests(read(encode(**body), CompletionBody), SETTINGS, id="x", sender="s")


def encode(**body: Any) -> bytes:
    return json.dumps(body).encode()


def refusal(data: bytes, kind: type[ChatBody] | type[CompletionBody] = ChatBody) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        requests(read(data, kind), SETTINGS, id="x", sender="s")
    return caught.value


@given(near_bodies)
def test_any_json_value_becomes_a_request_or_a_bad_request(body: dict[str, Any]) -> None:
    try:
        made = requests(body_of(load_object(encode(**body))), SETTINGS, id="x", sender="s")
    except BadRequest as error:
        json.dumps(error.message + (error.param or "")).encode()
        return
    for request in made:
        assert (request.messages is None) != (request.prompt is None)
        assert request.max_tokens is None or 1 <= request.max_tokens <= 1000
        assert 1 <= request.n <= 16
        assert request.priority is None or 0 <= request.priority <= 9
        assert 0 <= request.sampling.temperature <= 2
        assert len(request.stop) <= 16


@given(st.binary(max_size=200))
def test_any_bytes_are_a_json_object_or_a_bad_request(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(load_object(data), dict)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"{", "line 1, column 2"),
        (b"\xff{}", "UTF-8"),
        (b"[]", "must be a JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": ' + b"[" * 15_000 + b"]" * 15_000 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "deeper"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\x00"}', "not valid JSON"),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else "",
)
def test_what_is_not_strict_json_is_refused_by_what_is_wrong(data: bytes, said: str) -> None:
    assert said in refusal(data).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", "a\0b"),
        ("messages", "hello"),
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 1.1),
        ("top_k", 1.5),
        ("min_p", -1),
        ("seed", 2**63),
        ("seed", True),
        ("n", 0),
        ("n", 17),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1001),
        ("max_tokens", 10**30),
        ("max_tokens", "5"),
        ("max_completion_tokens", 1001),
        ("stop", ["x"] * 10_000),
        ("stop", ["x" * 257]),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", 7),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": "2"}),
        ("logit_bias", {str(key): 1 for key in range(2000)}),
        ("logprobs", 2),
        ("top_logprobs", 3),
        ("priority", 10),
        ("timeout", 0),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("grammar", 'root ::= "a"'),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "auto"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("suffix", "end"),
        ("chat_template_kwargs", {"a": [1]}),
        ("chat_template_kwargs", {"a": "\ud800"}),
        ("chat_template_kwargs", {"messages": "a"}),
        ("chat_template_kwargs", {"a b": 1}),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    body = {"messages": [HELLO], field: value}
    error = refusal(encode(**body))
    assert error.param == field
    assert field in error.message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "wizard", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content"),
        ({"role": "user", "content": "a\0"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content"),
        ({"role": "tool", "content": "x"}, "messages[0]"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0]"),
        ("hello", "messages[0]"),
    ],
)
def test_a_wrong_message_is_refused_by_its_place(message: Any, param: str) -> None:
    assert refusal(encode(messages=[message])).param == param


def test_too_many_messages_or_characters_are_refused() -> None:
    assert refusal(encode(messages=[HELLO] * 5000)).param == "messages"
    assert refusal(encode(messages=[{"role": "user", "content": "x" * 2_000_001}])).param == "messages"
    assert refusal(encode(prompt="x" * 2_000_001), CompletionBody).param == "prompt"
    assert refusal(encode(prompt=["x"] * 65), CompletionBody).param == "prompt"


@pytest.mark.parametrize(
    "prompt", [None, "", [], [""], ["a", ""], [[]], 5, {}, [1, "a"], [-1], [True], [[1], 2]]
)
def test_an_empty_or_mixed_prompt_is_refused(prompt: Any) -> None:
    assert refusal(encode(prompt=prompt), CompletionBody).param == "prompt"


def test_empty_messages_are_refused() -> None:
    assert refusal(encode(messages=[])).param == "messages"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"best_of": 2}, "best_of"), ({"echo": True, "logprobs": 1}, "echo"), ({"logprobs": 21}, "logprobs")],
)
def test_what_completions_cannot_do_is_refused(body: dict[str, Any], param: str) -> None:
    assert refusal(encode(prompt="a", **body), CompletionBody).param == param


def test_a_refusal_never_repeats_the_callers_value() -> None:
    assert "secret" not in refusal(encode(messages=[HELLO], temperature="secret")).message


def test_unknown_and_harmless_fields_are_ignored() -> None:
    request = chat(
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        grammar=None,
        something_new={"deep": [1]},
    )
    assert request == chat()


def test_the_fields_become_a_request() -> None:
    request = chat(
        model="m",
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        repeat_last_n=32,
        seed=7,
        logit_bias={"5": -100, "6": 1.5},
        logprobs=True,
        top_logprobs=3,
        stop="end",
        max_tokens=5,
        max_completion_tokens=6,
        n=2,
        priority=0,
        ignore_eos=True,
        chat_template_kwargs={"enable_thinking": False},
    )
    drawing = request.sampling
    assert (drawing.temperature, drawing.top_p, drawing.top_k, drawing.min_p) == (0, 0.5, 0, 0.1)
    assert (drawing.presence_penalty, drawing.frequency_penalty) == (1, -1)
    assert (drawing.repeat_penalty, drawing.penalty_last_n, drawing.seed) == (1.1, 32, 7)
    assert drawing.logit_bias == {5: -100, 6: 1.5}
    assert (drawing.logprobs, drawing.ignore_eos) == (3, True)
    assert (request.model, request.stop, request.max_tokens, request.n) == ("m", ("end",), 6, 2)
    assert (request.priority, request.sender, request.deadline) == (0, "s", None)
    assert request.template_kwargs == {"enable_thinking": False}


def test_a_user_is_a_session() -> None:
    assert chat(user="u").session != chat(user="v").session != chat().session == ""


def test_defaults_are_the_contracts() -> None:
    request = chat()
    assert (request.n, request.priority, request.max_tokens, request.stop) == (1, None, None, ())
    assert request.sampling.logprobs is None
    assert completion(prompt="a")[0].max_tokens == 16
    assert chat(logprobs=True).sampling.logprobs == 0


def test_text_parts_are_one_text_and_the_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    data = encode(messages=[{"role": "developer", "content": parts, "name": "d", "extra": 1}])
    (request,) = requests(read(data, ChatBody), SETTINGS, id="x", sender="s")
    assert request.messages == [{"role": "system", "content": "a\nb", "name": "d"}]


def test_the_four_forms_of_a_prompt() -> None:
    assert [one.prompt for one in completion(prompt="a")] == ["a"]
    assert [one.prompt for one in completion(prompt=["a", "b"])] == ["a", "b"]
    assert [one.prompt for one in completion(prompt=[1, 2])] == [(1, 2)]
    assert [one.prompt for one in completion(prompt=[[1], [2, 3]])] == [(1,), (2, 3)]
    assert [one.id for one in completion(prompt=["a", "b"])] == ["x-0", "x-1"]


def test_a_timeout_is_a_deadline() -> None:
    before = time.monotonic()
    deadline = chat(timeout=60).deadline
    assert deadline is not None
    assert before + 60 <= deadline <= time.monotonic() + 60


def test_a_body_is_told_by_messages_or_prompt() -> None:
    assert isinstance(body_of({"messages": [HELLO]}), ChatBody)
    assert isinstance(body_of({"prompt": "a"}), CompletionBody)
    for neither in ({}, {"messages": [HELLO], "prompt": "a"}):
        with pytest.raises(BadRequest):
            body_of(neither)
