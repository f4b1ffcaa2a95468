"""Tokens' bytes into text that may be shown: no cut character, nothing that may yet become a stop string."""

from __future__ import annotations

import codecs


class Text:
    """The text of one answer as it grows.

    `push` returns what is safe to show now; `stopped` tells that a stop string was met (it, and what
    follows it, is never shown). Invalid UTF-8 becomes U+FFFD, as in every OpenAI-compatible server.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        return self._show(self._decoder.decode(data))

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        shown = self._show(self._decoder.decode(b"", True)) + self._held
        self._held = ""
        return shown

    def _show(self, text: str) -> str:
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            shown, self._held = self._held[:cut], ""
            return shown
        keep = max(self._overlap(stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def _overlap(self, stop: str) -> int:
        """How many characters at the end could be the beginning of `stop`."""
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0
