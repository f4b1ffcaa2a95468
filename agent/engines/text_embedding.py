"""The pipeline `text-embedding` around an Engine of tensors: texts to vectors, one row a text.

An element of `text` is UTF-8; one that begins with the byte 0xFF, as no UTF-8 does, holds token ids behind
it, int32 and little endian, which are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from agent.engines.engine import EngineError, TensorEngine, TensorInfo
from agent.engines.tensors import Array, dtype
from models.errors import BadFile
from models.pipelines.embedding import vectors
from models.pipelines.table import TextEmbedding

IDS = b"\xff"
TOKENS = 4096  # of one run, padding too: more at once is hardly faster, and takes memory by their number
MOST_BYTES = 1 << 20  # of a text: tokenising takes time, whatever is cut off afterwards
Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


class TextEmbeddingEngine:
    def __init__(self, inner: TensorEngine, pipeline: TextEmbedding, folder: Path) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would take the cores from the runners
        self._inner = inner
        self._pipeline = pipeline
        self._fixed = self._fixed_length()
        self._tokenizer = self._load(folder / pipeline.tokenizer)
        self._output = self._find_output()
        self.info: TensorInfo = replace(inner.info, inputs=pipeline.inputs, outputs=pipeline.outputs)

    def example(self, rows: int) -> dict[str, Array]:
        return {"text": _bytes([b"An edge device is a small computer near its sensors. " * 4] * rows)}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        encoded = self._encode(inputs["text"].ravel().tolist())
        rows = [ids for ids, _ in encoded]
        if not all(rows):
            raise EngineError("a text has no tokens")
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]))  # texts alike in length run together
        parts = [self._embed([rows[at] for at in run]) for run in self._runs(order, rows)]
        none = np.zeros((0, self._pipeline.dimensions or 0), np.float32)
        made: dict[str, Array] = {
            "embedding": np.concatenate(parts)[np.argsort(order)] if parts else none,
            "tokens": np.array([count for _, count in encoded], np.int64),
        }
        return [made[name] for name in outputs]

    def close(self) -> None:
        self._inner.close()

    # Texts to tokens.

    def _encode(self, texts: Sequence[bytes]) -> list[tuple[list[int], int]]:
        """Of each text the ids that the model gets, and how many there would be with nothing cut off."""
        plain = [_text(one) for one in texts if not one.startswith(IDS)]
        try:
            encoded = iter(self._tokenizer.encode_batch(plain))
        except Exception as error:  # the library's errors have no common base but this
            raise EngineError(f"the tokenizer cannot take a text: {str(error)[:300]}") from error
        return [self._given(one) if one.startswith(IDS) else _counted(next(encoded)) for one in texts]

    def _given(self, element: bytes) -> tuple[list[int], int]:
        if len(element) % 4 != 1:
            raise EngineError("a list of token ids has a cut one")
        ids: list[int] = np.frombuffer(element, "<i4", offset=1).tolist()
        if not ids or not 0 <= min(ids) <= max(ids) < self._tokenizer.get_vocab_size():
            raise EngineError("a list of token ids is empty, or has one outside the vocabulary")
        return ids[: self._most], len(ids)

    # Tokens to vectors.

    def _runs(self, order: Sequence[int], rows: Sequence[list[int]]) -> Iterator[Sequence[int]]:
        """Cuts `order`, by length, into runs of at most TOKENS with padding, or of one row."""
        begun = 0
        for at in range(1, len(order) + 1):
            full = at == len(order) or not self._inner.info.batches
            if full or (at + 1 - begun) * (self._fixed or len(rows[order[at]])) > TOKENS:
                yield order[begun:at]
                begun = at

    def _embed(self, rows: Sequence[list[int]]) -> Vectors:
        length = self._fixed or max(map(len, rows))
        ids = np.full((len(rows), length), self._pipeline.pad_id, np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        made = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(length), ids.shape),
        }
        given = {spec.name: made[spec.name].astype(dtype(spec.datatype)) for spec in self._inner.info.inputs}
        (found,) = self._inner.run(given, [self._output])
        pooled = _pool(np.asarray(found, np.float32), mask, self._pipeline.pooling)
        if self._pipeline.normalise:
            pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return pooled

    # Once, at the load.

    @property
    def _most(self) -> int:
        return min(self._pipeline.max_tokens, self._fixed or self._pipeline.max_tokens)

    def _load(self, path: Path) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.no_padding()
            tokenizer.enable_truncation(self._most)  # cuts the end
        except Exception as error:  # the library's errors have no common base but this
            raise EngineError(f"{path.name} is not a tokenizer: {str(error)[:300]}") from error
        return tokenizer

    def _fixed_length(self) -> int | None:
        lengths = {spec.shape[1] for spec in self._inner.info.inputs if len(spec.shape) == 2}
        if len(lengths) != 1:
            raise EngineError("the model's inputs must be [texts, tokens], of one length")
        return lengths.pop()

    def _find_output(self) -> str:
        try:
            return vectors(self._inner.info.outputs).name
        except BadFile as error:
            raise EngineError(str(error)) from None


def _pool(found: Vectors, mask: Ids, pooling: str) -> Vectors:
    """[texts, width] of [texts, tokens, width]; padding counts for nothing. A copy, to write into."""
    if found.ndim == 2:
        return found.copy()
    if pooling == "cls":
        return found[:, 0].copy()
    if pooling == "last":
        last: Vectors = found[np.arange(len(found)), mask.sum(axis=1) - 1]
        return last
    weights = mask[:, :, None].astype(np.float32)
    pooled: Vectors = (found * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    return pooled


def _counted(encoding: Encoding) -> tuple[list[int], int]:
    """What was cut off comes in pieces that each have special tokens of their own."""
    rest = sum(len(one.ids) - sum(one.special_tokens_mask) for one in encoding.overflowing)
    return encoding.ids, len(encoding.ids) + rest


def _text(element: bytes) -> str:
    if len(element) > MOST_BYTES:
        raise EngineError(f"a text has more than {MOST_BYTES} bytes")
    try:
        text = element.decode()
    except UnicodeDecodeError:
        raise EngineError("a text is not UTF-8") from None
    return text


def _bytes(values: Sequence[bytes]) -> Array:
    made = np.empty(len(values), object)
    made[:] = values
    return made
