"""Which slot of the KV cache a Sequence gets, and what of its prompt is already there. Decides; does nothing.

Two facts of llama.cpp shape this (measured; see docs/performance.md):

- Only Sequences in *consecutive* slots share one pass over the weights. So active slots are kept one dense
  window: newcomers fill holes first, then grow the window at its ends; a hole that stays is padded by a
  throwaway token, or filled by moving the Sequence at the window's end into it.
- A slot keeps its tokens when its Sequence ends. That is the prefix cache: a newcomer takes over the longest
  common prefix in its own slot, or copies another slot's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COPY_WORTH = 16
"""Tokens that a copy must save to be worth more than computing them."""


@dataclass(slots=True)
class Slot:
    index: int
    tokens: list[int] = field(default_factory=list)  # what its KV holds, position by position
    active: bool = False
    coming: list[int] = field(default_factory=list)  # the prompt that is being computed here
    used: int = 0  # when it was last placed or released; grows


@dataclass(frozen=True, slots=True)
class Placement:
    slot: int
    reused: int  # tokens of the prompt that need not be computed
    copy_from: int | None = None  # copy this slot first


def common(left: list[int], right: list[int]) -> int:
    """The length of the longest common prefix, by bisection over slices (which compare at C speed)."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Slots:
    def __init__(self, count: int, *, shares: bool = True) -> None:
        self._shares = shares  # False: an Engine that cannot keep a prefix
        self._slots = [Slot(index) for index in range(count)]
        self._clock = 0

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def active(self) -> list[int]:
        return [slot.index for slot in self._slots if slot.active]

    def holes(self) -> list[int]:
        """Free slots between active ones."""
        active = self.active
        if not active:
            return []
        return [index for index in range(active[0], active[-1]) if not self._slots[index].active]

    def place(self, prompt: list[int]) -> Placement | None:
        """The slot for a new Sequence; None: none is free, or its prefix is just being computed."""
        places = self._places()
        if not places:
            return None
        most = len(prompt) - 1 if self._shares else 0  # the last is always computed: for its logits
        shared = [min(common(slot.tokens, prompt), most) for slot in self._slots]
        source = max(range(len(shared)), key=lambda index: (shared[index], self._slots[index].used))
        if self._coming(prompt, most) > shared[source] + COPY_WORTH:
            return None
        own = max(places, key=lambda index: (shared[index], -len(self._slots[index].tokens)))
        if shared[source] >= shared[own] + COPY_WORTH:
            return Placement(self._least_missed(places), shared[source], copy_from=source)
        if shared[own] < COPY_WORTH:  # nothing worth keeping: let the oldest go, not the best
            own = self._least_missed(places)
        return Placement(own, shared[own])

    def take(self, placement: Placement, prompt: list[int]) -> None:
        slot = self._slots[placement.slot]
        slot.tokens = prompt[: placement.reused]
        slot.active, slot.coming, slot.used = True, prompt, self._tick()

    def release(self, index: int) -> None:
        slot = self._slots[index]
        slot.active, slot.coming, slot.used = False, [], self._tick()

    def move(self, source: int, target: int) -> None:
        """Slot `target` now holds, and runs, what `source` did; `source` keeps its tokens as a cache."""
        old, new = self._slots[source], self._slots[target]
        new.tokens, new.active, new.coming, new.used = list(old.tokens), True, old.coming, self._tick()
        self.release(source)

    def end_nearest_empty(self) -> int:
        """The active slot at that end of the window whose Sequence is the shorter: the one to move."""
        active = self.active
        return min(active[0], active[-1], key=lambda index: len(self._slots[index].tokens))

    def _places(self) -> list[int]:
        active = self.active
        if not active:
            return list(range(len(self._slots)))
        if holes := self.holes():
            return holes
        return [index for index in (active[0] - 1, active[-1] + 1) if 0 <= index < len(self._slots)]

    def _least_missed(self, places: list[int]) -> int:
        """An empty slot, else the one that was not used for longest."""
        return min(places, key=lambda index: (len(self._slots[index].tokens) > 0, self._slots[index].used))

    def _coming(self, prompt: list[int], most: int) -> int:
        """The longest prefix that Sequences now in prefill will have computed soon."""
        lengths = (
            min(common(slot.coming, prompt), most)
            for slot in self._slots
            if slot.active and len(slot.tokens) < len(slot.coming)
        )
        return max(lengths, default=0)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
