"""What steps cost on this device, learnt as they run, and how much a step may carry because of it.

The model: seconds = pass x passes + row x decodes + token x prompt tokens. A pass is one reading of the
weights; llama.cpp makes one for each run of consecutive slots (slots.py), and another for the rest of prompt
pieces.
"""

from __future__ import annotations

LEAST = 16  # tokens: smaller pieces cost more in passes over the weights than they smooth
MOST_SECONDS = 1.0  # no step may be planned longer: the heartbeat comes from the loop
SHARE = 1.0  # of the decodes' own time that prompts always get, or a full house would let nobody in
_FORGET = 0.98  # of what was learnt, at each step
_WEIGHT = 0.1  # of a new measurement in the moving average


class Pace:
    """Sizes prompt pieces by time: a step shall last `target` seconds while others wait for a token."""

    def __init__(self, target: float, batch: int, fixed: int | None = None) -> None:
        self._target, self._batch, self._fixed = target, batch, fixed
        # Sums of a least-squares fit of steps that only decode: passes, rows and seconds, multiplied.
        self._pp = self._pr = self._rr = self._ps = self._rs = 0.0
        self._token: float | None = None  # seconds a prompt token adds
        self.pass_s = self.row_s = 0.0

    def for_other_work(self, batch: int) -> Pace:
        """With the same target, for steps of another cost: it has learnt nothing yet."""
        return Pace(self._target, batch, self._fixed)

    def piece(self, rows: int) -> int:
        """Prompt tokens for a step that decodes `rows` Sequences."""
        if self._fixed is not None:
            return min(self._fixed, self._batch)
        if self._token is None:
            return min(4 * LEAST, self._batch)
        if not rows:
            return max(LEAST, min(self._batch, int(MOST_SECONDS / self._token)))
        decode = self.pass_s + self.row_s * rows
        room = max(self._target - decode, SHARE * decode)
        return max(LEAST, min(self._batch, int(room / self._token)))

    def worth_padding(self, gap: int) -> bool:
        """Whether `gap` throwaway rows cost less than another pass."""
        return gap * self.row_s < self.pass_s

    def took(self, passes: int, rows: int, tokens: int, seconds: float) -> None:
        """A step of `rows` decodes and `tokens` prompt tokens in so many passes has lasted `seconds`."""
        if tokens:
            return self._took_mixed(self.pass_s * passes + self.row_s * rows, tokens, seconds)
        self._pp = self._pp * _FORGET + passes * passes
        self._pr = self._pr * _FORGET + passes * rows
        self._rr = self._rr * _FORGET + rows * rows
        self._ps = self._ps * _FORGET + passes * seconds
        self._rs = self._rs * _FORGET + rows * seconds
        self._fit()

    def _took_mixed(self, decode: float, tokens: int, seconds: float) -> None:
        """The decodes were expected to take `decode` seconds of it.

        Where the step took longer, the larger part is to blame for most. All of it on the prompts would be
        wrong where the whole device became slower: they would get less and less, and with a full house no
        step of decodes alone would ever tell.
        """
        if self._token is None:
            self._token = max(seconds - decode, 1e-6) / tokens
            return
        prompt = self._token * tokens
        blame = decode**2 / (decode**2 + prompt**2)
        over = _WEIGHT * max(-0.5, min(1.0, seconds / (decode + prompt) - 1)) * (decode + prompt)
        self._token *= 1 + over * (1 - blame) / prompt
        if decode:
            self._scale(1 + over * blame / decode)

    def _scale(self, factor: float) -> None:
        """Decodes cost that much more, and so would those have that the fit remembers."""
        self.pass_s, self.row_s = self.pass_s * factor, self.row_s * factor
        self._ps, self._rs = self._ps * factor, self._rs * factor

    def _fit(self) -> None:
        determinant = self._pp * self._rr - self._pr * self._pr
        if determinant < 1e-3 * self._pp * self._rr:  # steps too alike to tell the two costs apart
            if not self.row_s:
                self.row_s = self._rs / self._rr
            return
        self.pass_s = max(0.0, (self._ps * self._rr - self._rs * self._pr) / determinant)
        self.row_s = max(0.0, (self._rs - self.pass_s * self._pr) / self._rr)
