"""The embeddings of a server of OpenAI's protocol: what is sent there, and what its answer must be."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.engines.openai_events import BadEvent, Count
from agent.request import Prompt
from agent.vector import unit

MOST_EACH = 256 * 1024  # bytes of the answer for each text: vectors of some 10,000 numbers
NEAR = 1e-3  # of length 1, within which a vector is passed on as it came


class _Row(msgspec.Struct):
    index: Count
    embedding: str | list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0


class _Answer(msgspec.Struct):
    data: list[_Row]
    usage: _Usage | None = None


def body(texts: Sequence[Prompt], model: str) -> dict[str, Any]:
    """In base64, which is shorter; from a server that does not know it floats are taken too.

    Dimensions are not asked for: many servers refuse that, and they are cut off here as for any other model.
    """
    return {"model": model, "input": texts, "encoding_format": "base64"}


def read(data: bytes, texts: int) -> tuple[bytes, int]:
    """Of so many texts the vectors, one behind the other, and the tokens of all. BadEvent."""
    try:
        told = msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadEvent(f"embeddings that are none: {error}") from None
    rows = sorted(told.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(texts)):
        raise BadEvent(f"{len(rows)} embeddings for {texts} texts")
    vectors = [_vector(row.embedding) for row in rows]
    if len({len(one) for one in vectors}) > 1:
        raise BadEvent("embeddings of several lengths")
    return b"".join(vectors), told.usage.prompt_tokens if told.usage else 0


def _vector(given: str | list[float]) -> bytes:
    """Of length 1, as all vectors here are."""
    try:
        values = array("f", base64.b64decode(given, validate=True) if isinstance(given, str) else given)
    except (binascii.Error, ValueError, OverflowError):
        raise BadEvent("an embedding that is no list of numbers") from None
    length = math.hypot(*values)
    if not values or not math.isfinite(length):
        raise BadEvent("an embedding without numbers, or with some that are none")
    raw = values.tobytes()
    return raw if abs(length - 1) < NEAR else unit(raw)
