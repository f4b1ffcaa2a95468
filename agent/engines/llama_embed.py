"""Vectors of texts by llama.cpp, in a context of their own, made when the first is asked for.

In a context of its own an embedding leaves the answers' KV alone. A model that looks back only computes a
text in pieces, which are pooled here, so that answers go on between two of them. One that looks both ways
takes a text as a whole, and llama.cpp pools it, with what the model has behind its pooling.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from agent.engines.engine import CannotEmbed, EmbedInfo, EmbedPiece, EngineError
from agent.engines.llama_batch import Batch
from agent.free_memory import available

SLOTS = 16
STEP = 128  # tokens: llama.cpp makes logits of all of them too, and more at once are not faster on a CPU
WHOLE_STEP = 512  # of a model that takes texts as a whole; one longer text more
POOLINGS = {
    llama.LLAMA_POOLING_TYPE_MEAN: "mean",
    llama.LLAMA_POOLING_TYPE_CLS: "cls",
    llama.LLAMA_POOLING_TYPE_LAST: "last",
}


class LlamaEmbedder:
    """`context`: tokens of one text. `whole`: the model looks both ways."""

    def __init__(self, model: Any, settings: Mapping[str, Any], context: int, whole: bool) -> None:
        self._model, self._settings = model, settings
        self._pooling = _pooling(model)
        self._width = llama.llama_model_n_embd_out(model)
        self._ctx: Any = None
        self._sums: dict[int, NDArray[np.float64]] = {}  # by slot, of texts in progress
        step = max(WHOLE_STEP, context) if whole else STEP
        self._batch = Batch(step)
        self._size = step
        self.info = EmbedInfo(
            dimensions=self._width,
            context=context,
            slots=SLOTS,
            step=WHOLE_STEP if whole else STEP,
            room=context,
            whole=whole,
            pooling=POOLINGS[self._pooling],
        )

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        """As `Engine.embed`."""
        if self._ctx is None:
            self._ctx = self._open()
        memory = llama.llama_get_memory(self._ctx)
        if memory:
            for slot in (*dropped, *(piece.slot for piece in pieces if piece.start == 0)):
                llama.llama_memory_seq_rm(memory, slot, -1, -1)
        count = self._batch.fill_to_embed(pieces)
        if (code := llama.llama_decode(self._ctx, self._batch.struct)) != 0:
            raise EngineError(f"llama_decode failed with {code} in an embedding")
        found = self._pooled(pieces) if self.info.whole else self._pool(pieces, count)
        if memory:
            for piece in pieces:
                if piece.last:
                    llama.llama_memory_seq_rm(memory, piece.slot, -1, -1)
        return [_unit(vector) for vector in found]

    def close(self) -> None:
        if self._ctx is not None:
            llama.llama_free(self._ctx)

    def _open(self) -> Any:
        info, settings = self.info, self._settings
        need, there = int(settings.get("embed_need", 0)), available()
        if there < need:  # the kernel would give it, and kill somebody later
            raise CannotEmbed(
                f"embeddings need about {need / 1e6:,.0f} MB of memory more, and {there / 1e6:,.0f} MB are"
                " available: unload another model, or make AUTOGLM_CONTEXT smaller"
            )
        params = llama.llama_context_default_params()
        params.n_ctx = max(info.context, self._size)
        params.n_batch = params.n_ubatch = params.n_outputs_max = self._size
        params.n_seq_max = info.slots
        params.n_threads = params.n_threads_batch = int(settings["threads"])
        params.embeddings = True
        params.pooling_type = self._pooling if info.whole else llama.LLAMA_POOLING_TYPE_NONE
        params.kv_unified = True
        ctx = llama.llama_init_from_model(self._model, params)
        if not ctx:
            raise CannotEmbed("llama.cpp has no memory for a context for embeddings: a shorter one may fit")
        return ctx

    def _pooled(self, pieces: Sequence[EmbedPiece]) -> list[NDArray[Any]]:
        rows = [llama.llama_get_embeddings_seq(self._ctx, piece.slot) for piece in pieces]
        return [np.ctypeslib.as_array(row, shape=(self._width,)) for row in rows]

    def _pool(self, pieces: Sequence[EmbedPiece], count: int) -> list[NDArray[Any]]:
        rows = np.ctypeslib.as_array(llama.llama_get_embeddings(self._ctx), shape=(count, self._width))
        found, at = [], 0
        for piece in pieces:
            mine = rows[at : at + len(piece.tokens)]
            at += len(piece.tokens)
            if piece.start == 0:
                self._sums[piece.slot] = np.zeros(self._width)
            if self._pooling == llama.LLAMA_POOLING_TYPE_MEAN:
                self._sums[piece.slot] += mine.sum(axis=0, dtype=np.float64)
            elif self._pooling == llama.LLAMA_POOLING_TYPE_LAST:
                self._sums[piece.slot][:] = mine[-1]
            elif piece.start == 0:
                self._sums[piece.slot][:] = mine[0]
            if piece.last:
                found.append(self._sums.pop(piece.slot))
        return found


def _pooling(model: Any) -> int:
    """The model's own, else the mean. EngineError: it is a reranker."""
    buffer = ctypes.create_string_buffer(64)
    llama.llama_model_meta_val_str(model, b"general.architecture", buffer, len(buffer))
    key = buffer.value + b".pooling_type"
    if llama.llama_model_meta_val_str(model, key, buffer, len(buffer)) < 0:
        return int(llama.LLAMA_POOLING_TYPE_MEAN)
    pooling = int(buffer.value)
    if pooling in (llama.LLAMA_POOLING_TYPE_UNSPECIFIED, llama.LLAMA_POOLING_TYPE_NONE):
        return int(llama.LLAMA_POOLING_TYPE_MEAN)
    if pooling not in POOLINGS:
        raise EngineError("this model ranks texts, which is not supported")
    return pooling


def _unit(vector: NDArray[Any]) -> bytes:
    """Of length 1, FP32, little endian. The direction alone counts: a mean need not be divided."""
    length = float(np.linalg.norm(vector)) or 1.0
    return (vector / length).astype("<f4").tobytes()
