"""OpenAI's protocol, for the HTTP and the MQTT door: bytes -> body -> Requests; the way back is in `answers`.

body = read(data, ChatBody)                          # or load_object, then body_of, where a door adds keys
asked = requests(body, settings, id=new_id(body), sender="http:alice")
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.config import Settings
from agent.doors.openai.bodies import ChatBody, CompletionBody, EmbeddingBody
from agent.doors.openai.fields import MAX_CHARACTERS
from agent.doors.openai.strict_json import load_object
from agent.errors import BadRequest
from agent.request import Request, Sampling

Body = ChatBody | CompletionBody
B = TypeVar("B", ChatBody, CompletionBody, EmbeddingBody)
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions
_SAMPLING = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "penalty_last_n",
    "ignore_eos",
)


def read(data: bytes, kind: type[B]) -> B:
    """The body that `data` holds. Raises BadRequest with `param`."""
    return validate(load_object(data), kind)


def body_of(values: Mapping[str, Any]) -> Body:
    """The body of either kind, told apart by its `messages` or `prompt`. Raises BadRequest with `param`."""
    if ("messages" in values) == ("prompt" in values):
        raise BadRequest("Give either 'messages' or 'prompt'.", param="messages")
    return validate(values, ChatBody) if "messages" in values else validate(values, CompletionBody)


def validate(values: Mapping[str, Any], kind: type[B]) -> B:
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        raise bad_request(error) from None
    if not isinstance(body, EmbeddingBody):
        _check(body)
    return body


def requests(body: Body, settings: Settings, *, id: str, sender: str, durable: bool = False) -> list[Request]:
    """One Request for each prompt; their ids are `id`, or `id-0`, `id-1`, ... where there are several."""
    now = time.monotonic()
    common: dict[str, Any] = {
        "model": body.model or "",
        "sampling": _sampling(body),
        "max_tokens": _max_tokens(body, settings),
        "stop": tuple(body.stop),
        "n": body.n or 1,
        "priority": body.priority,
        "deadline": None if body.timeout is None else now + body.timeout,
        "sender": sender,
        "session": f"{sender}/{body.user}" if body.user else "",
        "durable": durable,
        "keep_alive": body.keep_alive,
    }
    if isinstance(body, ChatBody):
        messages = [_message(message.role, message.content, message.name) for message in body.messages]
        return [Request(id=id, messages=messages, template_kwargs=body.chat_template_kwargs, **common)]
    ids = [id] if len(body.prompt) == 1 else [f"{id}-{index}" for index in range(len(body.prompt))]
    echo = bool(body.echo)
    return [
        Request(id=each, prompt=prompt, echo=echo, **common)
        for each, prompt in zip(ids, body.prompt, strict=True)
    ]


def new_id(body: Body) -> str:
    prefix = "chatcmpl" if isinstance(body, ChatBody) else "cmpl"
    return f"{prefix}-{secrets.token_hex(12)}"


def _message(role: str, content: str, name: str | None) -> dict[str, str]:
    # Few templates know OpenAI's newer name for the system role.
    message = {"role": "system" if role == "developer" else role, "content": content}
    if name is not None:
        message["name"] = name
    return message


def _sampling(body: Body) -> Sampling:
    given = {name: value for name in _SAMPLING if (value := getattr(body, name)) is not None}
    if body.top_k is not None:
        given["top_k"] = max(body.top_k, 0)
    return Sampling(
        seed=body.seed, logit_bias=body.logit_bias, logprobs=_logprobs(body), asked=frozenset(given), **given
    )


def _logprobs(body: Body) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    return body.top_logprobs or 0 if body.logprobs else None


def _max_tokens(body: Body, settings: Settings) -> int | None:
    name, asked = "max_tokens", body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        name, asked = "max_completion_tokens", body.max_completion_tokens
    if asked is not None and asked > settings.max_tokens:
        raise BadRequest(f"{name}: at most {settings.max_tokens} tokens may be asked for.", param=name)
    if asked is None and isinstance(body, CompletionBody):
        return DEFAULT_COMPLETION_TOKENS
    return asked


def _check(body: Body) -> None:
    """What concerns two fields at once."""
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options: only allowed where 'stream' is true.", param="stream_options")
    if isinstance(body, ChatBody):
        if not body.messages:
            raise BadRequest("messages: must not be empty.", param="messages")
        if body.top_logprobs is not None and not body.logprobs:
            raise BadRequest("top_logprobs: only allowed where 'logprobs' is true.", param="top_logprobs")
        if sum(len(message.content) for message in body.messages) > MAX_CHARACTERS:
            raise BadRequest(f"messages: at most {MAX_CHARACTERS} characters in all.", param="messages")
    else:
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise BadRequest("best_of: not supported, unless it equals 'n'.", param="best_of")
        if body.echo and body.logprobs is not None:
            raise BadRequest("echo: not supported together with 'logprobs'.", param="echo")


def bad_request(error: ValidationError) -> BadRequest:
    """Of all that is wrong, the first; the value itself is never repeated to the caller."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = first.get("ctx", {}).get("param") or _path(first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return BadRequest(f"{param}: {message}." if param else f"{message}.", param=param or None)


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path[:128]
