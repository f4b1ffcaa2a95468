"""Which sessions a canary has: spans of the places on which a Model's sessions stand. Does no I/O.

Each canary owns its spans. One that grows takes free places, which were the stable Version's; one that
shrinks gives back those that it took last. So a change of one canary's weight moves nobody between the
others, and undone it brings everybody back. No function of the weights alone can promise that for three
canaries or more, so the spans are remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

PLACES = 1_000_000_000
Span = tuple[int, int]  # from the first of the two up to, and without, the other


def place(model: str, session: str) -> int:
    """Where this session stands among all of the Model's; even, and always the same."""
    digest = hashlib.sha256(f"{model}\0{session}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") * PLACES >> 64


def has(spans: Iterable[Span], at: int) -> bool:
    return any(begin <= at < end for begin, end in spans)


def resized(mine: Iterable[Span], others: Iterable[Span], weight: float) -> list[Span]:
    """What a canary has once its weight is so many percent, given what it and the others have now."""
    wanted = round(weight / 100 * PLACES)
    kept: list[Span] = []
    for begin, end in mine:
        end = min(end, begin + wanted)
        if end > begin:
            _append(kept, (begin, end))
            wanted -= end - begin
    for begin, end in _free([*kept, *others]):
        if wanted <= 0:
            break
        _append(kept, (begin, min(end, begin + wanted)))
        wanted -= end - begin
    return kept


def _append(spans: list[Span], span: Span) -> None:
    """Joined with the last, where it goes on from that."""
    if spans and spans[-1][1] == span[0]:
        spans[-1] = (spans[-1][0], span[1])
    else:
        spans.append(span)


def _free(taken: list[Span]) -> Iterator[Span]:
    """What nobody has, from the first place on."""
    at = 0
    for begin, end in sorted(taken):
        if begin > at:
            yield at, begin
        at = max(at, end)
    if at < PLACES:
        yield at, PLACES
