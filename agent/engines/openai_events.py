"""The events of a streamed answer in OpenAI's protocol, from bytes to Chunks. Does no I/O.

A server is not trusted further than needed: lines are bounded, and what is not as it should be is an error.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from agent.request import Chunk, TokenLogprob, Usage

MOST_LINE = 1 << 20  # bytes of one event
MOST_ANSWER = 16 << 20  # bytes of all texts and log probabilities: a server may forget `max_tokens`
MOST_COUNT = 1 << 53  # tokens; whoever says more is wrong, and frames have no room for it
MIN_LOGPROB = -9999.0  # where a server has none
FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter"}  # else "stop"
GAVE_UP = ("abort", "error")
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]


class BadEvent(Exception):
    """Not what the protocol has."""


class Cut(Exception):
    """The stream ended, and the answer had not."""


class Refused(Exception):
    """The server ended the answer by an error. `status`: of HTTP, where it told one."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None  # of a chat
    text: str | None = None  # of a completion
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Events:
    """`feed` what comes; `end` where nothing more does. The last Chunk waits for the usage that follows."""

    def __init__(self, n: int, attempt: int, *, logprobs: bool) -> None:
        self._open = set(range(n))
        self._begun: set[int] = set()
        self._attempt = attempt
        self._with_logprobs = logprobs
        self._buffer = bytearray()
        self._halves: dict[int, str] = {}  # by answer: of a surrogate pair
        self._size = 0  # bytes, so far
        self._last: Chunk | None = None
        self._usage: Usage | None = None
        self.done = False  # the server said so

    def feed(self, data: bytes) -> list[Chunk]:
        """BadEvent, Refused."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if len(rest) > MOST_LINE:
            raise BadEvent(f"an event of more than {MOST_LINE} bytes")
        made: list[Chunk] = []
        for line in lines:
            if line.startswith(b"data:") and not self.done:
                made += self._event(bytes(line[5:]).strip())
        return made

    def end(self) -> list[Chunk]:
        """The last Chunks. Cut; Refused: there are too few answers."""
        if self._open and not self.done:
            raise Cut
        if missing := self._open - self._begun:
            raise Refused(0, b'{"error": "it gave %d answers too few"}' % len(missing))
        made = [self._chunk(index, "", finish="stop") for index in sorted(self._open)]
        if self._last is not None:
            made = [self._last, *made]
        return [*made[:-1], replace(made[-1], usage=self._usage)]

    def _event(self, data: bytes) -> list[Chunk]:
        if data == b"[DONE]":
            self.done = True
            return []
        try:
            event = msgspec.convert(json.loads(data), _Event)
        except (ValueError, RecursionError) as error:
            raise BadEvent(f"an event that is not one: {error}") from None
        if event.error is not None:
            code = event.error.get("code") if isinstance(event.error, dict) else None
            raise Refused(code if isinstance(code, int) else 0, data)
        if event.usage is not None and event.usage.completion_tokens is not None:
            details = event.usage.prompt_tokens_details
            cached = details.cached_tokens if details else None
            self._usage = Usage(event.usage.prompt_tokens, event.usage.completion_tokens, cached or 0)
        return [chunk for choice in event.choices if (chunk := self._of(choice))]

    def _of(self, choice: _Choice) -> Chunk | None:
        if choice.index not in self._open:
            if (choice.delta and choice.delta.content) or choice.text or choice.finish_reason:
                raise BadEvent(f"more of answer {choice.index}, which has ended or was not asked for")
            return None
        self._begun.add(choice.index)
        text = self._whole(choice.index, (choice.delta.content if choice.delta else choice.text) or "")
        logprobs = _logprobs(choice.logprobs) if self._with_logprobs and choice.logprobs else ()
        finish = choice.finish_reason
        if finish in GAVE_UP:
            raise Refused(0, b"")
        if not finish:
            return self._chunk(choice.index, text, logprobs) if text or logprobs else None
        self._open.remove(choice.index)
        last = self._chunk(choice.index, text, logprobs, FINISH.get(finish, "stop"))
        if self._open:
            return last
        self._last = last
        return None

    def _chunk(
        self, index: int, text: str, logprobs: tuple[TokenLogprob, ...] = (), finish: str | None = None
    ) -> Chunk:
        self._size += len(text.encode()) + sum(map(_size, logprobs))
        if self._size > MOST_ANSWER:
            raise BadEvent(f"an answer of more than {MOST_ANSWER} bytes")
        tokens = len(logprobs) or int(bool(text))
        return Chunk(index, text, tokens, logprobs, finish, attempt=self._attempt)

    def _whole(self, index: int, text: str) -> str:
        """JSON may name half a surrogate pair; the other half then comes in the next event."""
        text = self._halves.pop(index, "") + text
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[index] = text[-1]
            text = text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _logprobs(told: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    try:
        if "content" in told:
            return tuple(
                TokenLogprob(
                    _token(one),
                    _number(one["logprob"]),
                    tuple(
                        (_token(other), _number(other["logprob"])) for other in one.get("top_logprobs") or ()
                    ),
                )
                for one in told["content"] or ()
            )
        tops = told.get("top_logprobs") or [None] * len(told["tokens"])
        return tuple(
            TokenLogprob(
                token.encode("utf-8", "replace"),
                _number(value),
                tuple((other.encode("utf-8", "replace"), _number(its)) for other, its in (top or {}).items()),
            )
            for token, value, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True)
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BadEvent(f"log probabilities that are none: {error!r}") from None


def _size(told: TokenLogprob) -> int:
    return sum(8 + len(token) for token, _ in ((told.token, told.logprob), *told.top))


def _token(told: dict[str, Any]) -> bytes:
    raw = told.get("bytes")
    return bytes(raw) if isinstance(raw, list) else told["token"].encode("utf-8", "replace")


def _number(value: Any) -> float:
    return MIN_LOGPROB if value is None else float(value)
