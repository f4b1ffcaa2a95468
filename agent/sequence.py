"""A Request's progress inside a Worker: its Sequences, and what they tell the caller."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.engines.engine import Drawn, Sampler
from agent.frames import Start
from agent.request import Chunk, TokenLogprob, Usage
from agent.text import Text


@dataclass(slots=True)
class Group:
    """What the Sequences of one Request share."""

    start: Start
    prompt: list[int]
    left: int  # Sequences that have not finished
    cached: int = 0
    generated: int = 0

    def usage(self) -> Usage:
        return Usage(len(self.prompt), self.generated, self.cached)


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer being made. `computed` positions of prompt and answer are in its slot's KV."""

    group: Group
    index: int
    limit: int  # tokens that may be generated
    sampler: Sampler
    text: Text
    order: tuple[int, int]  # priority first, then arrival: smaller goes first
    slot: int = -1
    computed: int = 0
    next: int = -1  # drawn, not yet computed
    generated: int = 0
    shown: int = 0  # tokens that Chunks have accounted for
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def decoding(self) -> bool:
        return self.next >= 0

    @property
    def remaining(self) -> int:
        """Prompt tokens to compute."""
        return len(self.group.prompt) - self.computed

    def take(self, drawn: Drawn, data: bytes, ends: bool, full: bool) -> Chunk | None:
        """A token was drawn: the Chunk to send, if there is one. With `finish` the Sequence is over."""
        self.next = drawn.token
        self.generated += 1
        self.group.generated += 1
        if drawn.logprob is not None and not ends:
            self.logprobs.append(drawn.logprob)
        shown = "" if ends else self.text.push(data)
        finish = None
        if ends or self.text.stopped:
            finish = "stop"
        elif full or self.generated >= self.limit:
            finish = "length"
        if finish and not self.text.stopped:
            shown += self.text.finish()
            if self.text.stopped:
                finish = "stop"
        if not shown and not finish:
            return None
        return self._chunk(shown, finish)

    def _chunk(self, shown: str, finish: str | None) -> Chunk:
        usage = None
        if finish:
            self.group.left -= 1
            usage = self.group.usage() if not self.group.left else None
        tokens, self.shown = self.generated - self.shown, self.generated
        logprobs, self.logprobs = tuple(self.logprobs), []
        return Chunk(self.index, shown, tokens, logprobs, finish, usage, self.group.start.attempt)
