"""What the Embedder promises: bounded pieces, whose turn it is, nothing of a text that was given up."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.embedder import Embedder
from agent.engines.engine import EmbedInfo, EmbedPiece
from agent.frames import Said, Start
from agent.request import Sampling

PIECES = EmbedInfo(dimensions=1, context=100, slots=3, step=8, room=100, whole=False, pooling="mean")
WHOLE = replace(PIECES, whole=True)


class Sums:
    """An Engine: the vector of a text is the sum of its tokens. A piece must go on where its slot is."""

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {}
        self.batches: list[list[EmbedPiece]] = []

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        self.batches.append(list(pieces))
        for slot in (*dropped, *(one.slot for one in pieces if one.start == 0)):
            self.held.pop(slot, None)
        found = []
        for piece in pieces:
            held = self.held.setdefault(piece.slot, [])
            assert len(held) == piece.start
            held.extend(piece.tokens)
            assert sum(map(len, self.held.values())) <= 100, "the KV is full"
            if piece.last:
                found.append(struct.pack("<f", sum(self.held.pop(piece.slot))))
        return found


def start(id: str, priority: int = 5, deadline: float | None = None) -> Start:
    return Start(id, "", Sampling(), 0, (), 1, priority, deadline, 1, embed=True)


def add(embedder: Embedder, id: str, tokens: Sequence[int], priority: int = 5) -> None:
    embedder.add(start(id, priority), tokens, (-priority, len(embedder)))


def run(embedder: Embedder, engine: Sums, budget: int) -> list[Said]:
    """Until nothing is left."""
    said = []
    while embedder:
        news, tokens = embedder.step(engine, budget)  # type: ignore[arg-type]
        assert tokens > 0, "a step that does nothing"
        said += news
    return said


def value(said: Said) -> float:
    assert said.chunk is not None
    return float(struct.unpack("<f", said.chunk.vector)[0])


@pytest.mark.parametrize("info", [PIECES, WHOLE], ids=["pieces", "whole"])
@pytest.mark.parametrize("budget", [1, 5, 8, 500])
def test_each_text_gets_its_own_vector_and_its_own_count(info: EmbedInfo, budget: int) -> None:
    embedder = Embedder(info)
    texts = {f"t{at}": list(range(at, at + 1 + 7 * at % 40)) for at in range(12)}
    for id, tokens in texts.items():
        add(embedder, id, tokens)
    said = run(embedder, Sums(), budget)
    assert {one.id: value(one) for one in said} == {id: sum(tokens) for id, tokens in texts.items()}
    for one in said:
        assert one.chunk is not None
        assert one.chunk.usage is not None
        assert one.chunk.usage.prompt_tokens == len(texts[one.id])


@pytest.mark.parametrize("budget", [1, 5, 500])
def test_no_step_has_more_tokens_than_it_may(budget: int) -> None:
    embedder, engine = Embedder(PIECES), Sums()
    for at in range(5):
        add(embedder, f"t{at}", [1] * 30)
    run(embedder, engine, budget)
    assert max(sum(len(one.tokens) for one in batch) for batch in engine.batches) == min(budget, 8)


def test_a_text_that_cannot_be_cut_goes_whole_and_with_as_many_others_as_fit() -> None:
    embedder, engine = Embedder(WHOLE), Sums()
    for id, length in (("long", 30), ("a", 3), ("b", 4), ("c", 5)):
        add(embedder, id, [1] * length)
    run(embedder, engine, 8)
    assert [[len(one.tokens) for one in batch] for batch in engine.batches] == [[30], [3, 4], [5]]


def test_texts_in_progress_fit_in_the_room_that_there_is() -> None:
    embedder, engine = Embedder(replace(PIECES, room=100)), Sums()
    for id in "abc":
        add(embedder, id, [1] * 60)  # two at once would need 120
    assert len(run(embedder, engine, 8)) == 3


def test_the_urgent_come_first_and_equals_in_their_order() -> None:
    embedder = Embedder(replace(PIECES, slots=1))
    for id, priority in (("later", 5), ("last", 1), ("first", 9), ("next", 9)):
        add(embedder, id, [1], priority)
    assert [one.id for one in run(embedder, Sums(), 1)] == ["first", "next", "later", "last"]


def test_a_text_that_is_given_up_leaves_nothing_in_its_slot() -> None:
    embedder, engine = Embedder(replace(PIECES, slots=1, room=60)), Sums()
    add(embedder, "gone", [5] * 60)
    add(embedder, "waiting and gone", [7])
    add(embedder, "stays", [1] * 60)
    embedder.step(engine, 8)  # type: ignore[arg-type]
    embedder.remove("gone")
    embedder.remove("waiting and gone")
    (said,) = run(embedder, engine, 8)
    assert (said.id, value(said)) == ("stays", 60)


def test_a_slot_whose_text_is_given_up_takes_no_room_from_others() -> None:
    embedder, engine = Embedder(replace(PIECES, step=40)), Sums()
    add(embedder, "first", [1] * 50)
    add(embedder, "gone", [1] * 50)  # in the second slot
    for budget in (40, 20):
        embedder.step(engine, budget)  # type: ignore[arg-type]
    embedder.remove("gone")
    add(embedder, "large", [1] * 100)  # in the first, and all the room
    (said,) = run(embedder, engine, 40)
    assert value(said) == 100


def test_those_past_their_deadlines_are_named_wherever_they_are() -> None:
    embedder = Embedder(replace(PIECES, slots=1))
    for id, deadline in (("running", 5.0), ("waiting", 5.0), ("patient", None)):
        embedder.add(start(id, deadline=deadline), [1] * 20, (0, len(embedder)))
    embedder.step(Sums(), 8)  # type: ignore[arg-type]
    assert embedder.expired(4.9) == []
    assert sorted(embedder.expired(5.0)) == ["running", "waiting"]
