"""The ruler itself: what a stream said is read rightly however its bytes came, and judged alike for all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import prompts, sse
from bench.figures import Answer, summarise


def events(texts: list[str]) -> bytes:
    """A response as uvicorn sends it: a chunk for each event."""
    bodies: list[dict[str, object]] = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    usage = {"completion_tokens": 64, "prompt_tokens": 104, "prompt_tokens_details": {"cached_tokens": 63}}
    bodies += [{"choices": [], "usage": usage}]
    chunks = [f"data: {json.dumps(body)}\n\n".encode() for body in bodies] + [b"data: [DONE]\n\n"]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@given(st.lists(st.text(max_size=8), max_size=8), st.lists(st.integers(1, 40)))
def test_an_answer_reads_the_same_however_its_bytes_were_cut(texts: list[str], cuts: list[int]) -> None:
    data, exchange = events(texts), sse.Exchange()
    for at, size in enumerate([*cuts, len(data)]):
        exchange.pieces.append((float(at), data[:size]))
        data = data[size:]
    exchange.complete = True
    answer = sse.read(exchange)
    assert len(answer.stamps) == sum(text != "" for text in texts)
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (64, 104, 63)


def test_an_error_inside_a_stream_is_not_an_answer() -> None:
    exchange = sse.Exchange()
    exchange.pieces.append((0.0, b'data: {"error": {"message": "no"}}\n\n'))
    with pytest.raises(sse.Refused, match="no"):
        sse.read(exchange)


def test_tokens_count_when_they_arrive_also_those_of_answers_that_were_cut() -> None:
    whole = Answer(0.0, [1.0, 2.0, 3.0, 4.0], tokens=4)
    cut = Answer(2.0, [2.5, 3.5, 5.0])  # the last came after the end
    figures = summarise([whole, cut], began=0.0, ended=4.0, tokens=4)
    assert figures.tokens_per_s == pytest.approx(6 / 4)
    assert (figures.requests, figures.short) == (1, 0)
    assert figures.ttft_p50 == pytest.approx(750)  # between 1000 and 500 ms
    assert figures.gap_p99 == pytest.approx(1000)


def test_of_an_answer_that_began_before_the_window_only_what_arrived_in_it_counts() -> None:
    earlier = Answer(0.0, [1.0, 2.0, 3.0], tokens=3)
    figures = summarise([earlier, Answer(2.0, [2.5, 3.5], tokens=2)], began=1.5, ended=3.5, tokens=3)
    assert figures.tokens_per_s == pytest.approx(4 / 2)
    assert figures.ttft_p50 == pytest.approx(500)
    assert figures.gap_p50 == pytest.approx(1000)


def test_an_answer_that_is_too_short_is_told() -> None:
    figures = summarise([Answer(0.0, [1.0, 2.0], tokens=2)], began=0.0, ended=2.0, tokens=64)
    assert figures.short == 1


def test_runs_with_another_salt_never_see_a_prompt_again() -> None:
    runs = [
        {prompts.user(n) for n, _ in zip(prompts.numbers(salt), range(500), strict=False)}
        for salt in (1, 2, 3)
    ]
    assert len(set.union(*runs)) == 1500
