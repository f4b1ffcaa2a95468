"""What the header reader promises: a Header or GGUFError, soon and in little memory, whatever the bytes."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import GGUFError
from models.gguf import Header, read_header
from models.gguf_parts import MAX_HEADER
from tests.models.files import minimal_pairs, model_of, pair, raw, string, tensor
from tests.support.gguf_file import MINIMAL, gguf_bytes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "file"


def read(place: Path, data: bytes) -> Header:
    place.write_bytes(data)
    return read_header(place)


def test_the_real_model_is_described(model_path: Path) -> None:
    header = read_header(model_path)
    assert (header.architecture, header.quantisation, header.context_length) == ("llama", "Q4_1", 8192)
    assert (header.layers, header.heads, header.kv_heads, header.embedding_length) == (30, 9, 3, 576)
    assert (header.vocabulary, header.tensors, header.parameters) == (49152, 272, 134_515_008)
    assert header.kv_width == 30 * 3 * (64 + 64)
    assert (header.query_width, header.feed_forward, header.window) == (9 * 64, 1536, 0)
    assert sum(header.matrices.values()) == header.tensor_bytes - 61 * 576 * 4  # all but the norms
    assert (header.bos_token, header.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert header.chat_template
    assert "<|im_start|>" in header.chat_template
    assert header.size == model_path.stat().st_size


def test_a_small_model_is_described(place: Path) -> None:
    header = read(place, gguf_bytes())
    assert (header.vocabulary, header.bos_token, header.eos_token) == (4, "<s>", "</s>")
    assert header.chat_template == MINIMAL["tokenizer.chat_template"]
    assert header.name is None
    assert header.quantisation is None


def test_tokens_are_found_in_a_vocabulary_that_stays_in_the_file(place: Path) -> None:
    words = [f"word{number}" for number in range(5000)]
    metadata = {"tokenizer.ggml.tokens": words, "tokenizer.ggml.bos_token_id": 4999}
    pairs = minimal_pairs(**metadata)
    header = read(place, raw(pairs, [tensor("token_embd.weight", (8, 5000))], bytes(5000 * 32)))
    assert (header.vocabulary, header.bos_token, header.eos_token) == (5000, "word4999", "word1")


def test_a_special_token_outside_the_vocabulary_is_none(place: Path) -> None:
    assert read(place, raw(minimal_pairs(**{"tokenizer.ggml.bos_token_id": 4}))).bos_token is None


def test_heads_may_differ_by_layer(place: Path) -> None:
    heads = pair("llama.attention.head_count_kv", 9, struct.pack("<IQ2I", 4, 2, 2, 4))
    lengths = [pair(f"llama.attention.{one}_length", 4, struct.pack("<I", 16)) for one in ("key", "value")]
    header = read(place, raw([*minimal_pairs(**{"llama.block_count": 2}), heads, *lengths]))
    assert (header.kv_heads, header.kv_width) == (4, 6 * 32)


def test_all_experts_that_a_token_uses_count(place: Path) -> None:
    experts = {"llama.feed_forward_length": 100, "llama.expert_feed_forward_length": 70}
    header = read(place, raw(minimal_pairs(**experts, **{"llama.expert_used_count": 2})))
    assert header.feed_forward == 140


def test_where_there_is_an_output_matrix_the_embedding_is_none(place: Path) -> None:
    layer = tensor("blk.0.attn_q.weight", (8, 8), offset=128)
    output = tensor("output.weight", (8, 4), kind=1, offset=384)
    header = read(
        place, raw(minimal_pairs(), [tensor("token_embd.weight", (8, 4)), layer, output], bytes(448))
    )
    assert header.matrices == {0: 4 * 8 * 8, 1: 2 * 8 * 4}


MANY = struct.pack("<Q", 1 << 62)
NESTED = pair("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 9, 1) * 1000)
ARCHITECTURE = ["general.architecture"]

REFUSED = {
    "empty": (b"", "too few"),
    "a web page": (b"<!DOCTYPE html><html></html>", "begins with '<!DO'$"),
    "a zip": (b"PK\x03\x04" + bytes(30), "begins with 50 4b 03 04$"),
    "version 1": (raw(minimal_pairs(), version=1), "version 1"),
    "version 4": (raw(minimal_pairs(), version=4), "version 4"),
    "big-endian": (raw(minimal_pairs(), version=3 << 24), "big-endian"),
    "no tensors": (raw(minimal_pairs(), []), "0 tensors"),
    "2**63 tensors": (raw(minimal_pairs(), tensor_count=1 << 63), "tensors"),
    "2**63 keys": (raw(minimal_pairs(), key_count=1 << 63), "keys"),
    "more keys than there are": (raw(minimal_pairs(), key_count=10_000), "a key of"),
    "a key of 2**62 bytes": (raw([MANY]), "a key of"),
    "an empty key": (raw([string("") + struct.pack("<IB", 0, 0)]), "a key of 0"),
    "a key twice": (raw([*minimal_pairs(), *minimal_pairs()]), "given twice"),
    "a string of 2**62 bytes": (raw([pair("long", 8, MANY)]), "truncated"),
    "an array of 2**62 numbers": (raw([pair("long", 9, struct.pack("<I", 4) + MANY)]), "truncated"),
    "an array of 2**62 strings": (raw([pair("long", 9, struct.pack("<I", 8) + MANY)]), "truncated"),
    "an array of 2**64-1 empty strings": (raw([pair("l", 9, struct.pack("<IQ", 8, 2**64 - 1))]), "truncated"),
    "a value of unknown type": (raw([pair("odd", 13, b"")]), "unknown type 13"),
    "an array of unknown type": (raw([pair("odd", 9, struct.pack("<IQ", 99, 1))]), "unknown type 99"),
    "nested arrays": (raw([NESTED]), "nested"),
    "a tensor name of 64 bytes": (raw(minimal_pairs(), [tensor("x" * 64, (1,))]), "name"),
    "five dimensions": (raw(minimal_pairs(), [tensor("x", (1,) * 5)]), "5 dimensions"),
    "2**32 dimensions": (raw(minimal_pairs(), [string("x") + b"\xff" * 4]), "dimensions"),
    "an overflowing shape": (raw(minimal_pairs(), [tensor("x", (1 << 40, 1 << 40))]), "shape"),
    "a row that no block divides": (raw(minimal_pairs(), [tensor("x", (31,), kind=2)]), "shape"),
    "an unknown tensor type": (raw(minimal_pairs(), [tensor("x", (32,), kind=77)]), "type 77"),
    "a removed tensor type": (raw(minimal_pairs(), [tensor("x", (32,), kind=4)]), "type 4"),
    "an offset past the end": (raw(minimal_pairs(), [tensor("x", (8,), 0, 1 << 40)]), "offset"),
    "tensors that overlap": (raw(minimal_pairs(), [tensor("x", (8,)), tensor("y", (8,))]), "offset"),
    "a tensor twice": (raw(minimal_pairs(), [tensor("x", (8,)), tensor("x", (8,), 0, 32)]), "given twice"),
    "missing data": (raw(minimal_pairs(), [tensor("token_embd.weight", (8, 4))], bytes(127)), "truncated"),
    "alignment 0": (raw(minimal_pairs(**{"general.alignment": 0})), "alignment"),
    "alignment 48": (raw(minimal_pairs(**{"general.alignment": 48})), "alignment"),
    "513 layers": (raw(minimal_pairs(**{"llama.block_count": 513})), "513 layers"),
    "no layers": (raw(minimal_pairs(**{"llama.block_count": 0})), "0 layers"),
    "layers as text": (raw(minimal_pairs(**{"llama.block_count": "many"})), "whole number"),
    "a window as text": (raw(minimal_pairs(**{"llama.attention.sliding_window": "wide"})), "whole number"),
    "a network's width as text": (
        raw(minimal_pairs(**{"llama.feed_forward_length": "wide"})),
        "whole number",
    ),
    "layers as a float": (raw(minimal_pairs(**{"llama.block_count": 1.0})), "whole number"),
    "1025 experts": (raw(minimal_pairs(**{"llama.expert_count": 1025})), "experts"),
    "no architecture": (raw(minimal_pairs(without=ARCHITECTURE)), "architecture"),
    "no context length": (raw(minimal_pairs(without=["llama.context_length"])), "context_length"),
    "no vocabulary": (raw(minimal_pairs(without=["tokenizer.ggml.tokens"])), "no vocabulary"),
    "an empty vocabulary": (raw(minimal_pairs(**{"tokenizer.ggml.tokens": []})), "0 tokens"),
    "a vocabulary of another size": (raw(minimal_pairs(**{"tokenizer.ggml.tokens": ["a"]})), "embedding"),
    "a token twice": (raw(minimal_pairs(**{"tokenizer.ggml.tokens": ["a", "b", "c", "a"]})), "twice"),
    "one score too few": (
        raw([*minimal_pairs(), pair("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 0, 0, 0))]),
        "scores",
    ),
    "token types of one byte": (
        raw([*minimal_pairs(), pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 0, 4) + bytes(4))]),
        "token_type",
    ),
    "a vision part": (raw(minimal_pairs(**{"general.architecture": "clip"})), "vision"),
    "an adapter": (raw(minimal_pairs(**{"general.type": "adapter"})), "adapter"),
    "one part of a split model": (raw(minimal_pairs(**{"split.count": 2})), "split"),
    "a template that is no text": (raw(minimal_pairs(**{"tokenizer.chat_template": 1})), "must be a string"),
}


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_the_engine_must_not_see_is_refused_with_the_reason(
    place: Path, data: bytes, says: str
) -> None:
    with pytest.raises(GGUFError, match=says):
        read(place, data)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises((GGUFError, IsADirectoryError)):
            read_header(path)


def bounded(place: Path, data: bytes) -> None:
    """A Header or GGUFError in little memory; a hang ends by the suite's timeout."""
    place.write_bytes(data)
    said = "a Header"
    tracemalloc.start()
    try:
        read_header(place)
    except GGUFError as error:
        said = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 0 < len(said) < 1000
    assert peak < 4 * 1024 * 1024 + 40 * len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
@example(struct.pack("<QQQsIIQ", 1, 1, 1, b"a", 9, 9, 1 << 60), True)  # others hang on 43 bytes like these
def test_random_bytes_are_refused_soon(place: Path, data: bytes, with_magic: bool) -> None:
    bounded(place, b"GGUF" + struct.pack("<I", 3) + data if with_magic else data)


_WHOLE = model_of(4096, metadata={"general.alignment": 64, "some.list": ["x", "y"]})
_NUMBERS = [0, 1, 2, 8, 9, 255, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1400),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([struct.pack("<Q", number) for number in _NUMBERS]),
                st.sampled_from([struct.pack("<I", number & 0xFFFFFFFF) for number in _NUMBERS]),
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    st.one_of(st.none(), st.integers(0, len(_WHOLE))),
)
def test_a_model_with_bytes_changed_or_cut_is_read_or_refused_soon(
    place: Path, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    data = bytearray(_WHOLE)
    for at, new in changes:
        data[at : at + len(new)] = new
    bounded(place, bytes(data[:cut]))


@pytest.mark.parametrize(("spare", "says"), [(1000, "a key of 0"), (-1000, "longer than")])
def test_the_longest_header_of_empty_strings_ends_soon(place: Path, spare: int, says: str) -> None:
    """8 bytes each: the most work that a header can ask for."""
    count = (MAX_HEADER - spare) // 8
    start = raw([], [], b"", key_count=2, tensor_count=1)[:24] + pair("l", 9, struct.pack("<IQ", 8, count))
    with place.open("wb") as file:
        file.write(start)
        file.truncate(MAX_HEADER + 10_000)
    with pytest.raises(GGUFError, match=says):
        read_header(place)


def test_many_small_arrays_do_not_fill_the_memory(place: Path) -> None:
    arrays = [pair(f"k{number}", 9, struct.pack("<IQ", 0, 1024) + bytes(1024)) for number in range(4000)]
    place.write_bytes(raw([*minimal_pairs(), *arrays]))
    tracemalloc.start()
    read_header(place)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


def test_a_real_header_with_random_damage_is_read_or_refused_soon(place: Path, model_path: Path) -> None:
    chance = random.Random(1)
    with model_path.open("rb") as file:
        start = bytearray(file.read(2 * 1024 * 1024))
    for _ in range(15):
        data = bytearray(start)
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(1500 if chance.random() < 0.5 else len(data))
            data[at] = chance.randrange(256)
        place.write_bytes(data)
        with pytest.raises(GGUFError):  # at least, its data is missing
            read_header(place)
