"""The texts that a Worker makes vectors of, a few tokens a step, beside the answers that it generates."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from agent.engines.engine import EmbedInfo, EmbedPiece, Engine
from agent.frames import Said, Start
from agent.request import Chunk, Usage


@dataclass(slots=True, eq=False)
class _Text:
    start: Start
    tokens: Sequence[int]
    order: tuple[int, int]  # priority first, then arrival: smaller goes first
    slot: int = -1
    done: int = 0  # tokens

    @property
    def left(self) -> int:
        return len(self.tokens) - self.done


class Embedder:
    def __init__(self, info: EmbedInfo) -> None:
        self._info = info
        self._free = list(range(info.slots))
        self._dropped: list[int] = []  # slots whose texts were given up in the middle
        self.waiting: list[_Text] = []
        self.running: list[_Text] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, start: Start, tokens: Sequence[int], order: tuple[int, int]) -> None:
        insort(self.waiting, _Text(start, tokens, order), key=lambda one: one.order)

    def remove(self, request: str) -> None:
        self.waiting = [one for one in self.waiting if one.start.id != request]
        for one in [one for one in self.running if one.start.id == request]:
            self._dropped.append(one.slot)
            self._finish(one)

    def clear(self) -> list[str]:
        """Give up all texts: ids of their Requests."""
        there = [one.start.id for one in (*self.running, *self.waiting)]
        for request in there:
            self.remove(request)
        return there

    def expired(self, now: float) -> list[str]:
        """Ids of Requests past their deadlines."""
        there = (*self.waiting, *self.running)
        return [one.start.id for one in there if one.start.deadline is not None and one.start.deadline <= now]

    def step(self, engine: Engine, budget: int) -> tuple[list[Said], int]:
        """Compute up to `budget` tokens, or a whole text that cannot be cut: what ended, and how many.

        EngineError, as `Engine.embed`.
        """
        planned = self._plan(budget)
        if not planned:
            return [], 0
        pieces = [piece for piece, _ in planned]
        dropped, self._dropped = self._dropped, []
        vectors = iter(engine.embed(pieces, dropped))
        said = []
        for piece, text in planned:
            text.done += len(piece.tokens)
            if piece.last:
                self._finish(text)
                said.append(_said(text, next(vectors)))
        return said, sum(len(piece.tokens) for piece in pieces)

    def _plan(self, budget: int) -> list[tuple[EmbedPiece, _Text]]:
        left = min(budget, self._info.step)
        planned = []
        for text in self.running:
            if left <= 0:
                break
            planned.append((self._piece(text, left), text))
            left -= len(planned[-1][0].tokens)
        while self.waiting and self._free and self._has_room(self.waiting[0], left, bool(planned)):
            text = self.waiting.pop(0)
            text.slot = self._free.pop(0)
            self.running.append(text)
            planned.append((self._piece(text, left), text))
            left -= len(planned[-1][0].tokens)
        return planned

    def _has_room(self, text: _Text, left: int, beside: bool) -> bool:
        if self._info.whole:  # the first always goes: a text is never longer than a step can be
            return not beside or len(text.tokens) <= left
        held = sum(len(one.tokens) for one in self.running)
        return left > 0 and held + len(text.tokens) <= self._info.room

    def _piece(self, text: _Text, left: int) -> EmbedPiece:
        count = text.left if self._info.whole else min(text.left, left)
        tokens = text.tokens[text.done : text.done + count]
        return EmbedPiece(text.slot, text.done, tokens, last=count == text.left)

    def _finish(self, text: _Text) -> None:
        self.running.remove(text)
        insort(self._free, text.slot)


def _said(text: _Text, vector: bytes) -> Said:
    usage = Usage(len(text.tokens), 0)
    chunk = Chunk(0, "", finish="stop", usage=usage, attempt=text.start.attempt, vector=vector)
    return Said(text.start.id, chunk)
