"""A Model that a server of OpenAI's protocol runs: vLLM, llama.cpp's server, another agent, ...

It is always asked to stream, with usage, so that Chunks come as they are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent.engines import openai_vectors
from agent.engines.engine import EngineError, EngineInfo, Progress
from agent.engines.openai_events import MOST_COUNT, BadEvent, Cut, Events, Refused
from agent.engines.upstream import TryAgain, Upstream, parsed
from agent.errors import Unavailable, UpstreamFailed
from agent.frames import Start
from agent.remote_worker import RemoteTextWorker
from agent.request import Chunk, Sampling, Usage
from models.errors import BadFile
from models.remote import Remote, read

MOST_LIST = 8 << 20  # bytes of the list of models
JSON = {"Content-Type": "application/json"}
NAMED = 5  # models that an error lists
_ALIKE = ("temperature", "top_p", "presence_penalty", "frequency_penalty")  # every server has these
_EXTRA = {  # not OpenAI's own: sent only where the caller named them, under the names that servers know
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's, vLLM's
    "penalty_last_n": ("repeat_last_n",),
    "ignore_eos": ("ignore_eos",),
}


class OpenAIServer:
    def __init__(self, remote: Remote, keys: Path) -> None:
        self._remote = remote
        base = remote.url if urlsplit(remote.url).path else f"{remote.url}/v1"
        self._upstream = Upstream(remote, base, keys)

    @property
    def concurrency(self) -> int:
        return self._remote.concurrency

    async def look(self) -> EngineInfo:
        status, body = await self._upstream.look("/models", MOST_LIST)
        if status in (404, 405):  # it has no such list: that it answers must do
            return self._info(None)
        if status != 200:
            error = self._upstream.refusal(status, body)
            raise error.error if isinstance(error, TryAgain) else error
        try:
            listed = {str(one["id"]): one for one in parsed(body)["data"]}
        except (ValueError, KeyError, TypeError):
            raise UpstreamFailed(self._upstream.says("has no list of models at /models")) from None
        if self._remote.model not in listed:
            names = ", ".join(sorted(listed)[:NAMED])[:300] or "none"
            raise UpstreamFailed(self._upstream.says(f"has no model {self._remote.model!r}; it has {names}"))
        longest = listed[self._remote.model].get("max_model_len")
        return self._info(longest if isinstance(longest, int) and 0 < longest <= MOST_COUNT else None)

    async def answer(self, asked: Start, say: Callable[[Chunk], None]) -> None:
        if asked.embed:
            return say(await self._upstream.persist(lambda: self._vectors(asked), asked.deadline))
        content = msgspec.json.encode(body(asked, self._remote.model))
        path = "/completions" if asked.messages is None else "/chat/completions"
        said = False

        def tell(chunks: list[Chunk]) -> None:
            nonlocal said
            for chunk in chunks:
                said = True
                say(chunk)

        async def once() -> None:
            await self._stream(path, content, asked, tell)

        await self._upstream.persist(once, asked.deadline, lambda: not said)

    async def _vectors(self, asked: Start) -> Chunk:
        texts = asked.texts or (asked.prompt,)
        content = msgspec.json.encode(openai_vectors.body(texts, self._remote.model))
        most = MOST_LIST + openai_vectors.MOST_EACH * len(texts)
        async with self._upstream.request("POST", "/embeddings", content, JSON) as response:
            told = await self._upstream.whole(response, most)
        try:
            vectors, tokens = await asyncio.to_thread(openai_vectors.read, told, len(texts))
        except BadEvent as error:
            raise UpstreamFailed(self._upstream.says(f"sent {error}")) from None
        return Chunk(0, "", finish="stop", usage=Usage(tokens, 0), attempt=asked.attempt, vector=vectors)

    async def close(self) -> None:
        await self._upstream.close()

    async def _stream(
        self, path: str, content: bytes, asked: Start, tell: Callable[[list[Chunk]], None]
    ) -> None:
        events = Events(asked.n, asked.attempt, logprobs=asked.sampling.logprobs is not None)
        headers = {**JSON, "Accept": "text/event-stream"}
        try:
            async with self._upstream.request("POST", path, content, headers) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise UpstreamFailed(self._upstream.says("does not stream its answers"))
                pieces = response.aiter_raw()
                async for data in pieces:
                    tell(events.feed(data))
                    if events.done:
                        break
                tell(events.end())
                await self._upstream.rest(pieces)
        except Refused as refused:
            raise self._upstream.refusal(refused.status or 500, refused.body) from None
        except Cut:
            raise TryAgain(Unavailable(self._upstream.says("broke off its answer"))) from None
        except BadEvent as error:
            raise UpstreamFailed(self._upstream.says(f"sent {error}")) from None

    def _info(self, context: int | None) -> EngineInfo:
        return EngineInfo(
            engine="openai",
            slots=self._remote.concurrency,
            context=self._remote.context or context or 0,
            vocabulary=0,
            device="remote",
            details={"url": self._remote.url, "model": self._remote.model},
        )


def body(asked: Start, model: str) -> dict[str, Any]:
    """What is sent there."""
    made: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if asked.messages is None:
        made["prompt"] = asked.prompt
        if asked.echo:
            made["echo"] = True
    else:
        made["messages"] = asked.messages
        if asked.template_kwargs:
            made["chat_template_kwargs"] = asked.template_kwargs
    if asked.max_tokens is not None:
        made["max_tokens"] = asked.max_tokens
    if asked.stop:
        made["stop"] = asked.stop
    if asked.n > 1:
        made["n"] = asked.n
    return made | _drawing(asked.sampling, chat=asked.messages is not None)


def _drawing(sampling: Sampling, *, chat: bool) -> dict[str, Any]:
    made: dict[str, Any] = {name: getattr(sampling, name) for name in _ALIKE if name in sampling.asked}
    for name, theirs in _EXTRA.items():
        if name in sampling.asked:
            made |= dict.fromkeys(theirs, getattr(sampling, name))
    if sampling.seed is not None:
        made["seed"] = sampling.seed
    if sampling.logit_bias:
        made["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        made |= (
            {"logprobs": True, "top_logprobs": sampling.logprobs} if chat else {"logprobs": sampling.logprobs}
        )
    return made


def load(model: str, settings: Mapping[str, Any], progress: Progress) -> RemoteTextWorker:
    """The entry point: `model` is the path of its description. EngineError."""
    try:
        return RemoteTextWorker(OpenAIServer(read(Path(model)), Path(settings["keys"])))
    except BadFile as error:
        raise EngineError(str(error)) from None
