"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.request import TokenLogprob

MIN_LOGPROB = -9999.0  # JSON has no -Infinity; OpenAI's value for a token that cannot be drawn


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {
            **_token(token.token, token.logprob),
            "top_logprobs": [_token(other, logprob) for other, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """`offset` is where the first token begins, in characters from the start of the answer."""
    texts = [text_of(token.token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_likeliest(token) for token in tokens],
        "text_offset": offsets,
    }


def _likeliest(token: TokenLogprob) -> dict[str, float]:
    """The drawn token is always among them, so that there may be one more than was asked for."""
    likeliest = {text_of(other): _finite(value) for other, value in token.top}
    return likeliest | {text_of(token.token): _finite(token.logprob)}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text_of(token), "logprob": _finite(logprob), "bytes": list(token)}


def text_of(token: bytes) -> str:
    """A token may be a part of a character; `bytes` then tells what it is."""
    return token.decode("utf-8", errors="replace")


def _finite(logprob: float) -> float:
    return logprob if logprob >= MIN_LOGPROB else MIN_LOGPROB  # so that NaN is one too
