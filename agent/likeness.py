"""How alike two answers to one question are: 1 for the same, 0 for nothing in common."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from difflib import SequenceMatcher
from math import sqrt
from typing import Any

from agent.request import Chunk
from agent.tensor import Outputs, Tensor

MOST_WORDS = 500  # of a text, and
MOST_VALUES = 16384  # of a tensor, that are compared
_FLOATS = {"FP16": "e", "FP32": "f", "FP64": "d"}


def likeness(left: Sequence[Any], right: Sequence[Any]) -> float:
    """Of all Chunks of two answers, or of the Outputs of two.

    Of texts that differ, the share of their first words that they have in common, in order, and 0.98 at most;
    of floats, the cosine of the first values; of anything else, whether it is equal. Of several texts or
    tensors the least like ones count.
    """
    if left and isinstance(left[0], Outputs):
        return _outputs(left[0], right[0])
    if left and left[0].vector:
        ours_and_theirs = (
            Tensor("", "FP32", (len(one[0].vector) // 4,), one[0].vector) for one in (left, right)
        )
        return _tensor(*ours_and_theirs)
    ours, theirs = _texts(left), _texts(right)
    if ours.keys() != theirs.keys():
        return 0.0
    return min((_text(ours[at], theirs[at]) for at in ours), default=1.0)


def _texts(chunks: Sequence[Chunk]) -> dict[int, str]:
    """By answer; of the last attempt alone."""
    last = max((chunk.attempt for chunk in chunks), default=1)
    texts: dict[int, str] = {}
    for chunk in chunks:
        if chunk.attempt == last:
            texts[chunk.index] = texts.get(chunk.index, "") + chunk.text
    return texts


def _text(left: str, right: str) -> float:
    if left == right:
        return 1.0
    words = left.split()[:MOST_WORDS], right.split()[:MOST_WORDS]
    return min(SequenceMatcher(None, *words, autojunk=False).ratio(), 0.98)


def _outputs(left: Outputs, right: Outputs) -> float:
    theirs = {tensor.name: tensor for tensor in right.tensors}
    if {tensor.name for tensor in left.tensors} != theirs.keys():
        return 0.0
    return min((_tensor(tensor, theirs[tensor.name]) for tensor in left.tensors), default=1.0)


def _tensor(left: Tensor, right: Tensor) -> float:
    if left.data == right.data and left.shape == right.shape:
        return 1.0
    if (left.datatype, left.shape) != (right.datatype, right.shape) or left.datatype not in _FLOATS:
        return 0.0
    ours, theirs = _values(left), _values(right)
    lengths = sqrt(sum(a * a for a in ours)) * sqrt(sum(b * b for b in theirs))
    return max(0.0, sum(a * b for a, b in zip(ours, theirs, strict=True)) / lengths) if lengths else 0.0


def _values(tensor: Tensor) -> tuple[float, ...]:
    count = min(len(tensor), MOST_VALUES)
    return struct.unpack_from(f"<{count}{_FLOATS[tensor.datatype]}", tensor.data)
