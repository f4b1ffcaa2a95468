"""Drawing tokens from logits, in numpy.

The order of filters is llama.cpp's: bias, penalties, top-k, top-p, min-p, temperature. Written for one row of
tens of thousands of logits a token: nothing here sorts a whole row where a part will do.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.request import Sampling

Row = NDArray[np.float32]
BLOCK = 64  # logits; the maxima of blocks bound the k-th greatest logit from below
NUCLEUS = 1024  # candidates in which a top-p nucleus is looked for first


class NumpySampler:
    """One Sequence's random state and the tokens it penalises.

    The same arguments draw the same tokens from the same rows.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], index: int, banned: NDArray[np.intp]
    ) -> None:
        self._sampling = sampling
        self._banned = banned if sampling.ignore_eos else banned[:0]
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), np.intp)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32)
        seed = sampling.seed
        self._random = random.Random(None if seed is None else f"{seed}/{index}")  # noqa: S311 - no secret
        self._penalises = bool(
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repeat_penalty != 1.0
        )
        last = sampling.penalty_last_n if self._penalises else 0
        self._recent: deque[int] = deque(prompt[-last:] if last else (), maxlen=last)
        self.greedy = sampling.temperature <= 0 and sampling.logprobs is None

    @property
    def logprobs(self) -> int | None:
        return self._sampling.logprobs

    def accept(self, token: int) -> None:
        if self._penalises:
            self._recent.append(token)

    def shape(self, row: Row) -> None:
        """Apply what changes logits, in place; for greedy, the greatest is then the token."""
        if len(self._bias_ids):
            row[self._bias_ids] += self._bias
        if self._penalises and self._recent:
            self._penalise(row)
        if len(self._banned):
            row[self._banned] = -np.inf

    def draw(self, row: Row) -> int:
        """A token from a shaped row."""
        sampling = self._sampling
        if sampling.temperature <= 0:
            return int(row.argmax())
        ids, logits, total = self._candidates(row)
        logits = logits[: self._nucleus(logits, total)] if sampling.top_p < 1 else logits
        if sampling.min_p > 0:
            logits = logits[: max(1, int((logits >= logits[0] + np.log(sampling.min_p)).sum()))]
        weights = np.exp((logits - logits.max()) / sampling.temperature).cumsum()
        at = int(weights.searchsorted(self._random.random() * weights[-1], side="right"))
        at = min(at, len(weights) - 1)
        return at if ids is None else int(ids[at])

    def _penalise(self, row: Row) -> None:
        sampling = self._sampling
        counts = Counter(self._recent)
        ids = np.fromiter(counts.keys(), np.intp)
        times = np.fromiter(counts.values(), np.float32)
        values = row[ids]
        repeated = np.where(values <= 0, values * sampling.repeat_penalty, values / sampling.repeat_penalty)
        row[ids] = repeated - times * sampling.frequency_penalty - sampling.presence_penalty

    def _candidates(self, row: Row) -> tuple[NDArray[np.intp] | None, NDArray[np.float64], float]:
        """Token ids and logits after top-k, by falling logit, and the mass that top-p is a share of.

        Ids None: the whole row, unsorted, where no filter is set. Mass is in units of the greatest token's.
        """
        sampling = self._sampling
        if sampling.top_k > 0:
            ids = greatest(row, sampling.top_k)
            logits = row[ids].astype(np.float64)
            return ids, logits, float(np.exp(logits - logits[0]).sum())
        if sampling.top_p >= 1 and sampling.min_p <= 0:
            return None, row.astype(np.float64), 0.0
        ids, total = self._enough(row)
        return ids, row[ids].astype(np.float64), total

    def _enough(self, row: Row) -> tuple[NDArray[np.intp], float]:
        """The greatest logits, as many as surely hold what top-p and min-p keep, and the whole row's mass."""
        sampling = self._sampling
        weights = np.exp(row.astype(np.float64) - float(row.max()))
        total = float(weights.sum())
        ids = greatest(row, min(NUCLEUS, len(row)))
        if sampling.top_p < 1 and weights[ids].sum() >= sampling.top_p * total:
            return ids, total
        if sampling.top_p >= 1 and weights[ids[-1]] < sampling.min_p:
            return ids, total
        return greatest(row, len(row)), total

    def _nucleus(self, logits: NDArray[np.float64], total: float) -> int:
        """How many of the falling logits make up top-p of the mass, at least one."""
        mass = np.exp(logits - logits[0]).cumsum() / total
        return int(mass.searchsorted(self._sampling.top_p)) + 1


def greatest(row: Row, count: int) -> NDArray[np.intp]:
    """Indices of the `count` greatest, by falling value (equal ones by index). Exact."""
    blocks = len(row) // BLOCK
    if count >= blocks:
        return np.argsort(-row, kind="stable")[:count]
    maxima = row[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
    # At least `count` values are as great as the count-th greatest of the maxima.
    least = np.partition(maxima, blocks - count)[blocks - count]
    ids = np.flatnonzero(row >= least)
    order = np.argsort(-row[ids], kind="stable")[:count]
    return ids[order]


def log_softmax(row: Row) -> NDArray[np.float32]:
    shifted = row - row.max()
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum())
    return result
