"""What a caller is shown of an answer as its tokens come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.text import Text

ANSWERS = st.text(st.sampled_from("ab \n€漢🙂é<|>"), max_size=40)
STOPS = st.lists(st.text(st.sampled_from("ab \n€漢🙂<|>"), min_size=1, max_size=6), max_size=3)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[left:right] for left, right in pairwise(edges)]


def shown(data: bytes, cuts: list[int], stops: list[str]) -> list[str]:
    text = Text(tuple(stops))
    parts = []
    for piece in pieces(data, cuts):
        parts.append(text.push(piece))
        if text.stopped:
            return parts
    return [*parts, text.finish()]


@given(ANSWERS, st.lists(st.integers(0, 200)), STOPS)
def test_streamed_pieces_equal_the_unstreamed_text(answer: str, cuts: list[int], stops: list[str]) -> None:
    whole = "".join(shown(answer.encode(), [], stops))
    bytewise = "".join(shown(answer.encode(), list(range(200)), stops))
    assert "".join(shown(answer.encode(), cuts, [])) == answer
    assert "".join(shown(answer.encode(), cuts, stops)) in (whole, bytewise)


@given(ANSWERS, STOPS)
def test_byte_by_byte_the_text_ends_before_the_stop_string_that_is_whole_first(
    answer: str, stops: list[str]
) -> None:
    ends = {answer.find(stop) + len(stop): answer.find(stop) for stop in stops if stop in answer}
    expected = answer
    if ends:
        first = min(ends)
        expected = answer[
            : min(answer.find(s) for s in stops if s in answer and answer.find(s) + len(s) == first)
        ]
    assert "".join(shown(answer.encode(), list(range(200)), stops)) == expected


@given(ANSWERS, st.lists(st.integers(0, 200)), STOPS)
def test_no_stop_string_is_ever_shown(answer: str, cuts: list[int], stops: list[str]) -> None:
    text = "".join(shown(answer.encode(), cuts, stops))
    assert not any(stop in text for stop in stops)


@given(ANSWERS, st.lists(st.integers(0, 200)))
def test_no_piece_has_a_cut_character(answer: str, cuts: list[int]) -> None:
    assert not any("\ufffd" in part for part in shown(answer.encode(), cuts, []))


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_invalid_bytes_become_replacement_characters_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    assert "".join(shown(data, cuts, [])) == data.decode("utf-8", "replace")
