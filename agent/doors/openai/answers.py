"""Chunks -> OpenAI's answers: a whole one (`Answer`), or one JSON object for each event (`Stream`).

Index layout, as OpenAI's: answer `j` to prompt `i` is choice `i * n + j`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agent import __version__
from agent.doors.openai.bodies import ChatBody, CompletionBody
from agent.doors.openai.logprobs import chat_logprobs, completion_logprobs, text_of
from agent.request import Chunk, TokenLogprob, Usage

Version = Callable[[], str]
"""Which Version answers: known for good at the first Chunk, since a lost Worker's Requests may move."""
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None


class Answer:
    """Gathers the Chunks of all Requests of one body; `completion` is then the object to send."""

    def __init__(self, body: ChatBody | CompletionBody, *, id: str, model: str, version: Version) -> None:
        self._body, self._id, self._model, self._version = body, id, model, version
        self._created = int(time.time())
        self._chat = isinstance(body, ChatBody)
        self._n = body.n or 1
        prompts = 1 if isinstance(body, ChatBody) else len(body.prompt)
        self._choices = [_Choice() for _ in range(prompts * self._n)]
        self._attempts = [1] * prompts
        self._usages: list[Usage | None] = [None] * prompts

    def add(self, chunk: Chunk, prompt: int = 0) -> None:
        """`prompt` is the place of the Chunk's Request among those of the body."""
        if chunk.attempt != self._attempts[prompt]:
            self._attempts[prompt] = chunk.attempt
            for index in range(prompt * self._n, (prompt + 1) * self._n):
                self._choices[index] = _Choice()
        choice = self._choices[prompt * self._n + chunk.index]
        choice.text.append(chunk.text)
        choice.logprobs.extend(chunk.logprobs)
        choice.finish = chunk.finish or choice.finish
        self._usages[prompt] = chunk.usage or self._usages[prompt]

    def completion(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": usage_object(self._usages),
            "system_fingerprint": fingerprint(self._version()),
        }

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        if self._chat:
            logprobs = chat_logprobs(choice.logprobs) if self._body.logprobs else None
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            wanted = self._body.logprobs is not None
            logprobs = completion_logprobs(choice.logprobs, 0) if wanted else None
            said = {"text": text}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": choice.finish}


class Stream:
    """Turns Chunks into the JSON objects of a stream.

    An event is made of ready pieces around the text: at some hundred events a second on a core that is shared
    with the model, building and encoding a nested dict for each would cost several times as much.
    """

    def __init__(self, body: ChatBody | CompletionBody, *, id: str, model: str, version: Version) -> None:
        self._chat = isinstance(body, ChatBody)
        self._n = body.n or 1
        self._with_logprobs = bool(body.logprobs) if isinstance(body, ChatBody) else body.logprobs is not None
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}
        self._usages: dict[int, Usage] = {}
        self._usage_wanted = bool(body.stream_options and body.stream_options.include_usage)
        self._created = int(time.time())
        self._id, self._model, self._version = id, model, version

    @cached_property
    def _head(self) -> str:
        envelope = {
            "id": self._id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": fingerprint(self._version()),
        }
        return _dumps(envelope)[:-1]

    @cached_property
    def _open(self) -> str:
        return self._head + ',"choices":[{"index":'

    @property
    def _close(self) -> str:
        return '}],"usage":null}' if self._usage_wanted else "}]}"

    def events(self, chunk: Chunk, prompt: int = 0) -> list[bytes]:
        """The events that this Chunk becomes, each a JSON object: none to three."""
        if chunk.usage is not None:
            self._usages[prompt] = chunk.usage
        index = prompt * self._n + chunk.index
        made = []
        if self._chat and index not in self._begun:
            self._begun.add(index)
            made.append(self._event(index, '"delta":{"role":"assistant","content":""}', "null", None))
        if chunk.text or chunk.logprobs:
            logprobs = self._logprobs(index, chunk.logprobs) if self._with_logprobs else "null"
            text = _dumps(chunk.text)
            said = f'"delta":{{"content":{text}}}' if self._chat else f'"text":{text}'
            made.append(self._event(index, said, logprobs, None))
        if chunk.finish is not None:
            made.append(self._event(index, '"delta":{}' if self._chat else '"text":""', "null", chunk.finish))
        return made

    def ending(self) -> list[bytes]:
        """What comes after the last Chunk: the usage, where it was asked for."""
        if not self._usage_wanted:
            return []
        usage = _dumps(usage_object(list(self._usages.values())))
        return [f'{self._head},"choices":[],"usage":{usage}}}'.encode()]

    def _event(self, index: int, said: str, logprobs: str, finish: str | None) -> bytes:
        reason = "null" if finish is None else f'"{finish}"'
        return (
            f'{self._open}{index},{said},"logprobs":{logprobs},"finish_reason":{reason}{self._close}'
        ).encode()

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> str:
        if self._chat:
            return _dumps(chat_logprobs(tokens))
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(text_of(token.token)) for token in tokens)
        return _dumps(completion_logprobs(tokens, offset))


def usage_object(usages: Sequence[Usage | None]) -> dict[str, Any]:
    known = [usage for usage in usages if usage is not None]
    prompt = sum(usage.prompt_tokens for usage in known)
    completion = sum(usage.completion_tokens for usage in known)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in known)},
    }


def fingerprint(version: str) -> str:
    """What answered: this agent and the Model's Version, as OpenAI's field is meant."""
    return f"autoglm-{__version__}-{version}"
