"""A llama_batch in numpy memory, filled in place: nothing is allocated in a step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from agent.engines.engine import EmbedPiece, Piece


class Batch:
    def __init__(self, size: int) -> None:
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._count = np.ones(size, np.int32)
        self._seq = np.zeros(size, np.int32)
        self._logits = np.zeros(size, np.int8)
        pointers = self._seq.ctypes.data + np.arange(size, dtype=np.uintp) * self._seq.itemsize
        self._seq_pointers = pointers.astype(np.uintp)
        self.struct = llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._count, ctypes.c_int32),
            seq_id=_pointer(self._seq_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, pieces: Sequence[Piece]) -> None:
        """The last token of each piece that has a sampler gives logits."""
        at = 0
        for piece in pieces:
            at = self._put(at, piece)
            self._logits[at - 1] = piece.sampler is not None
        self.struct.n_tokens = at

    def fill_to_embed(self, pieces: Sequence[EmbedPiece]) -> int:
        """Each token gives its row: how many."""
        at = 0
        for piece in pieces:
            at = self._put(at, piece)
        self._logits[:at] = 1
        self.struct.n_tokens = at
        return at

    def _put(self, at: int, piece: Piece | EmbedPiece) -> int:
        end = at + len(piece.tokens)
        self._token[at:end] = piece.tokens
        self._pos[at:end] = range(piece.start, piece.start + end - at)
        self._seq[at:end] = piece.slot
        self._logits[at:end] = 0
        return end


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
