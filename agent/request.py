"""The nouns of one answer: Request, Sampling, Chunk, Usage. Plain data, no behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Prompt = str | tuple[int, ...]
"""Text as the model is to see it (special tokens are parsed), or token ids."""

Message = Mapping[str, Any]
"""One chat message, as the model's template sees it: `role`, `content`, and whatever else it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Defaults are those of llama.cpp's server."""

    temperature: float = 0.8  # 0 is greedy
    top_k: int = 40  # 0: all
    top_p: float = 0.95  # 1: all
    min_p: float = 0.05  # 0: all
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    penalty_last_n: int = 64  # how far back the penalties look, in tokens
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> added to its logit
    logprobs: int | None = None  # None: none; n: the drawn token's and the n likeliest
    ignore_eos: bool = False
    asked: frozenset[str] = (
        frozenset()
    )  # which of these the caller named; a remote server has its own defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a Model. Made by a door, owned by serving until its last Chunk."""

    id: str  # unique in this agent
    model: str = ""  # "" is the node's default
    messages: Sequence[Message] | None = None  # chat; exactly one of `messages` and `prompt` is given
    prompt: Prompt | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None  # None: what is left of the context
    stop: tuple[str, ...] = ()
    n: int = 1  # how many answers to the one prompt
    echo: bool = False  # the answer begins with the prompt (completions only)
    embed: bool = False  # a vector of the prompt is wanted, and no answer: its one Chunk has it
    texts: tuple[Prompt, ...] = ()  # vectors of all these are, in place of the prompt: of a remote Model
    priority: int | None = None  # 0 to 9, 9 is served first; None: as the settings say
    deadline: float | None = None  # on the monotonic clock, seconds
    sender: str = ""  # whose turn this is, for fairness and limits: "http:<key name>", "mqtt:<sender>"
    session: str = ""  # who keeps the Version that answered; "" is nobody
    durable: bool = False  # run again after a Worker's death even if Chunks were out: nobody has seen them
    keep_alive: float | None = None  # seconds that the Model stays loaded after it; negative: for ever
    patient: bool = False  # its wall time begins when a Worker has it, not while it waits
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its bytes, and the natural logarithm of its probability, before any sampling filter."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole Request. `cached_tokens` of the prompt were not computed for it again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: whole characters, never a cut one."""

    index: int  # which of the Request's `n` answers
    text: str
    tokens: int = 0  # tokens that this piece accounts for
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None  # "stop" or "length", on the last Chunk of this index
    usage: Usage | None = None  # on the last Chunk of the Request
    attempt: int = 1  # grows when a Worker died and the answer begins anew: drop what came before
    vector: bytes = b""  # where that was asked for: of length 1, FP32, little endian; of `texts` all, joined
