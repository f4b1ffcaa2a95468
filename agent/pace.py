"""How many prompt tokens a step may carry beside its decodes. Learns what steps cost on this device as they run."""

from __future__ import annotations

LEAST = 16  # tokens: smaller pieces cost more in passes over the weights than they smooth
MOST_SECONDS = 1.0  # no step may be planned longer: the heartbeat comes from the loop
_WEIGHT = 0.1  # of a new measurement in the moving averages


class Pace:
    """Sizes prefill pieces by time: a step shall last `target` seconds while others wait for their next token.

    Prefill always gets at least `SHARE` of the decodes' own time, or a full house would never let anybody in.
    """

    SHARE = 0.5

    def __init__(self, target: float, batch: int, fixed: int | None = None) -> None:
        self._target, self._batch, self._fixed = target, batch, fixed
        self._decode: dict[int, float] = {}  # rows -> seconds of a step that only decodes
        self._token: float | None = None  # seconds a prompt token adds

    def piece(self, rows: int) -> int:
        """Prompt tokens for a step that decodes `rows` Sequences."""
        if self._fixed is not None:
            return min(self._fixed, self._batch)
        if self._token is None:
            return min(64, self._batch)
        if not rows:
            return max(LEAST, min(self._batch, int(MOST_SECONDS / self._token)))
        decode = self._estimate(rows)
        room = max(self._target - decode, self.SHARE * decode)
        return max(LEAST, min(self._batch, int(room / self._token)))

    def took(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of `rows` decodes and `tokens` prompt tokens has lasted `seconds`."""
        if not tokens:
            self._decode[rows] = _blend(self._decode.get(rows), seconds)
        elif tokens >= LEAST:
            self._token = _blend(self._token, max(seconds - self._estimate(rows), 1e-6) / tokens)

    def _estimate(self, rows: int) -> float:
        if not rows or not self._decode:
            return 0.0
        nearest = min(self._decode, key=lambda known: abs(known - rows))
        return self._decode[nearest] * (rows / nearest) ** 0.5  # between constant and linear


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
