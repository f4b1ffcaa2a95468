"""The order of steps inside a Worker: who gets a slot, and which tokens go into the next Batch.

Does no I/O and is handed the clock. Per step: decodes first, one row each; then prompt pieces, as many tokens
as the pace allows; then throwaway rows where a hole would split the Batch and they cost less (see slots.py,
pace.py).
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import pairwise

from agent.engines.engine import Piece
from agent.pace import LEAST, Pace
from agent.sequence import Sequence
from agent.slots import Placement, Slots

MOVE_AFTER = 3
"""Steps that a hole is padded, in the hope of a newcomer, before a Sequence is moved into it."""
LONG = 4
"""A prompt of more steps than that shares its pieces with shorter ones, which would wait for long."""

Rows = dict[int, tuple[Piece, Sequence | None]]  # by slot; None: a throwaway row


@dataclass(slots=True)
class Plan:
    """One step: first `copies`, then `trims`, then the Batch of `pieces`, then the trims of `padding`."""

    copies: list[tuple[int, int]] = field(default_factory=list)  # (source, target) slots
    trims: list[tuple[int, int]] = field(default_factory=list)  # (slot, positions to keep)
    pieces: list[Piece] = field(default_factory=list)  # by rising slot
    drawing: list[Sequence] = field(default_factory=list)  # whose pieces have samplers, in their order
    padding: list[tuple[int, int]] = field(default_factory=list)  # (slot, positions to keep) after the step
    passes: int = 0  # over the weights, as llama.cpp will make them
    rows: int = 0  # decodes
    prompt_tokens: int = 0
    cached: int = 0  # prompt tokens found in the KV


class Scheduler:
    def __init__(self, slots: int, context: int, pace: Pace, trims: bool = True) -> None:
        self.slots = Slots(slots, shares=trims)
        self.context = context
        self.pace = pace
        self._trims = trims  # without, nothing is reused or padded
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._hole_age = 0

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=lambda waiting: waiting.order)

    def remove(self, request: str) -> list[Sequence]:
        """Drop a Request's Sequences, wherever they are."""
        gone = [one for one in (*self.waiting, *self.running) if one.group.start.id == request]
        self.waiting = [one for one in self.waiting if one.group.start.id != request]
        for one in [one for one in gone if one.slot >= 0]:
            self.finish(one)
        return gone

    def finish(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.slots.release(sequence.slot)

    def expired(self, now: float) -> list[str]:
        """Ids of Requests past their deadlines."""
        late = {
            one.group.start.id
            for one in (*self.waiting, *self.running)
            if one.group.start.deadline is not None and one.group.start.deadline <= now
        }
        return sorted(late)

    def plan(self) -> Plan:
        plan = Plan()
        self._close_holes(plan)
        by_slot: Rows = {}
        for one in self.running:
            if one.decoding:
                by_slot[one.slot] = (Piece(one.slot, one.computed, [one.next], one.sampler), one)
        plan.rows = len(by_slot)
        self._prefill(plan, by_slot)
        self._pad(plan, by_slot)
        for slot in sorted(by_slot):
            piece, sequence = by_slot[slot]
            plan.pieces.append(piece)
            if sequence is not None and piece.sampler is not None:
                plan.drawing.append(sequence)
        longer = [piece.slot for piece in plan.pieces if len(piece.tokens) > 1]
        plan.passes = _runs(sorted(by_slot)) + _runs(longer)
        return plan

    def done(self, plan: Plan, seconds: float) -> None:
        """The plan was carried out: positions are in the KV now."""
        padded = {slot for slot, _ in plan.padding}
        by_slot = {one.slot: one for one in self.running}
        for piece in plan.pieces:
            if piece.slot in padded:
                continue
            self.slots[piece.slot].tokens.extend(piece.tokens)
            by_slot[piece.slot].computed += len(piece.tokens)
        self.pace.took(plan.passes, plan.rows + len(plan.padding), plan.prompt_tokens, seconds)

    def kv_used(self) -> float:
        held = sum(len(self.slots[one.slot].tokens) for one in self.running)
        return held / (len(self.slots) * self.context)

    def _prefill(self, plan: Plan, by_slot: Rows) -> None:
        budget = self.pace.piece(plan.rows)
        prefilling = sorted((one for one in self.running if not one.decoding), key=lambda one: one.order)
        if not prefilling:
            self._admit(budget, plan, by_slot)
            return
        oldest, *others = prefilling
        left = reserve = self._reserve(oldest, budget)
        for one in sorted(others, key=lambda one: one.remaining):
            # At least one token each: a slot left out would split the Batch.
            left -= self._feed(one, max(left, 1), plan, by_slot)
        left -= self._admit(left, plan, by_slot)
        self._feed(oldest, max(budget - (reserve - left), 1), plan, by_slot)

    def _reserve(self, oldest: Sequence, budget: int) -> int:
        """Tokens of the budget for others: what the oldest leaves, or half beside a prompt of many steps."""
        return budget // 2 if oldest.remaining > LONG * budget else max(0, budget - oldest.remaining)

    def _admit(self, budget: int, plan: Plan, by_slot: Rows) -> int:
        """Give slots to those that wait: the tokens that this took."""
        used = 0
        least = min(LEAST, budget)  # crumbs would each cost a pass over the weights
        for one in list(self.waiting):
            if (used and budget - used < least) or budget <= used:
                break
            placement = self.slots.place(one.group.prompt)
            if placement is None:
                continue
            self.waiting.remove(one)
            self._enter(one, placement, plan)
            used += self._feed(one, budget - used, plan, by_slot)
        return used

    def _enter(self, one: Sequence, placement: Placement, plan: Plan) -> None:
        self.slots.take(placement, one.group.prompt)
        if placement.copy_from is not None:
            plan.copies.append((placement.copy_from, placement.slot))
        plan.trims.append((placement.slot, placement.reused))
        one.slot, one.computed = placement.slot, placement.reused
        if one.index == 0:  # the others find what this one computes
            one.group.cached = placement.reused
        plan.cached += placement.reused
        self.running.append(one)

    def _feed(self, one: Sequence, budget: int, plan: Plan, by_slot: Rows) -> int:
        count = min(one.remaining, budget)
        tokens = one.group.prompt[one.computed : one.computed + count]
        sampler = one.sampler if count == one.remaining else None
        by_slot[one.slot] = (Piece(one.slot, one.computed, tokens, sampler), one)
        plan.prompt_tokens += count
        return count

    def _pad(self, plan: Plan, by_slot: Rows) -> None:
        if not self._trims:
            return
        for left, right in pairwise(sorted(by_slot)):
            gap = range(left + 1, right)
            if not gap or not self.pace.worth_padding(len(gap)):
                continue
            for slot in gap:
                keep = len(self.slots[slot].tokens)
                if keep >= self.context:  # no room for the throwaway token: give up the last
                    keep -= 1
                    self.slots[slot].tokens.pop()
                    plan.trims.append((slot, keep))
                by_slot[slot] = (Piece(slot, keep, [0]), None)
                plan.padding.append((slot, keep))

    def _close_holes(self, plan: Plan) -> None:
        holes = self.slots.holes()
        self._hole_age = self._hole_age + 1 if holes and not self.waiting else 0
        if self._hole_age <= MOVE_AFTER:
            return
        source, target = self.slots.end_nearest_empty(), holes[0]
        moved = next(one for one in self.running if one.slot == source)
        plan.copies.append((source, target))
        self.slots.move(source, target)
        moved.slot = target


def _runs(slots: list[int]) -> int:
    """How many runs of consecutive numbers there are."""
    return sum(1 for at, slot in enumerate(slots) if not at or slot != slots[at - 1] + 1)
