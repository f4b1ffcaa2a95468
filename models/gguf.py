"""What a GGUF file says of itself, read before llama.cpp sees it.

llama.cpp aborts on some well-formed headers (more than 512 layers, a token given twice) and other readers
hang on crafted ones. `read_header` reads nothing but the header, in bounded time and memory, and refuses
what the engine would refuse or die of.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import gguf_parts as parts
from models.errors import GGUFError
from models.gguf_parts import Array, Cursor, Tensor
from models.gguf_types import FLOAT32, INT32, QUANTISATIONS, STRING

MAGIC = b"GGUF"
MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_EXPERTS = 1_024  # llama.cpp's LLAMA_MAX_EXPERTS
MAX_VOCABULARY = 2 * 1024 * 1024  # tokens; the largest known has 262,144
ENCODERS = {
    *("bert", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3"),
    *("eurobert", "gemma-embedding"),
}
"""Architectures that look both ways, whether their files say so or not."""
MAX_COUNT = 2**31 - 1  # llama.cpp keeps lengths in 32 bits


@dataclass(frozen=True, slots=True)
class Header:
    """A model's own description. Counts are as llama.cpp takes them; sizes are in bytes.

    `metadata` holds every key: numbers, strings, bools, tuples of these; an `Array` stayed in the file,
    being long or part of the vocabulary.
    """

    metadata: Mapping[str, Any] = field(repr=False)
    size: int  # of the file
    tensors: int
    tensor_bytes: int
    parameters: int
    architecture: str
    name: str | None
    quantisation: str | None  # "Q4_1"; None where the file does not say
    context_length: int  # tokens, as trained
    embedding_length: int
    layers: int
    heads: int  # of the layer that has most
    kv_heads: int  # likewise
    kv_width: int  # numbers that one token adds to the KV cache, over all layers
    query_width: int  # numbers that one token's queries have, in the layer that has most
    feed_forward: (
        int  # numbers between the two halves of a layer's network, of all experts that one token uses
    )
    window: int  # tokens that some layers look back; 0: all layers see everything
    matrices: Mapping[int, int]  # ggml type -> bytes of the weights that tokens are multiplied by
    blocks: tuple[int, ...]  # bytes of each layer's tensors
    head: int  # bytes of the matrix that makes tokens of the last layer's numbers
    tied: bool  # whether that is the tokens' embedding
    vocabulary: int  # tokens
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None = field(repr=False)

    @property
    def encoder(self) -> bool:
        """Whether it looks both ways, and so makes vectors of texts but no texts."""
        return (
            self.metadata.get(f"{self.architecture}.attention.causal") is False
            or self.architecture in ENCODERS
        )


def read_header(path: Path) -> Header:
    """Read and check a model's header. GGUFError: what is wrong with it; OSError: the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not to wait on a named pipe
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError("not a regular file")
        return _read(Cursor(descriptor, status.st_size), status.st_size)
    finally:
        os.close(descriptor)


def _read(cursor: Cursor, size: int) -> Header:
    tensor_count, key_count = _read_counts(cursor, size)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.name(parts.MAX_KEY, "a key")
        if key in metadata:
            raise GGUFError(f"key {key!r} is given twice")
        metadata[key] = cursor.value(key)
    tensors = [parts.read_tensor(cursor) for _ in range(tensor_count)]
    values = _Values(metadata)
    _check_purpose(values)
    _check_data(tensors, values.count("general.alignment", 32), cursor.at, size)
    return _describe(values, tensors, cursor, size)


def _read_counts(cursor: Cursor, size: int) -> tuple[int, int]:
    if size < 24:
        raise GGUFError(f"not a GGUF file: {size} bytes are too few")
    if (magic := cursor.take(4)) != MAGIC:
        begins = f"'{magic.decode()}'" if magic.isascii() and magic.decode().isprintable() else magic.hex(" ")
        raise GGUFError(f"not a GGUF file: it begins with {begins}")
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise GGUFError("the file is big-endian: convert it for this machine")
    if version not in (2, 3):
        raise GGUFError(f"GGUF version {version}: only 2 and 3 can be read")
    tensors, keys = cursor.u64(), cursor.u64()
    if not 0 < tensors <= parts.MAX_TENSORS:
        raise GGUFError(f"the header counts {tensors} tensors; 1 to {parts.MAX_TENSORS} are allowed")
    if keys > parts.MAX_KEYS:
        raise GGUFError(f"the header counts {keys} keys; at most {parts.MAX_KEYS} are allowed")
    return tensors, keys


class _Values:
    """Metadata, asked for by name and type."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.all = metadata

    def text(self, key: str) -> str | None:
        value = self.all.get(key)
        if value is not None and not isinstance(value, str):
            raise GGUFError(f"key {key!r} must be a string of less than 1 MiB")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to 2**31 - 1."""
        value = self.all.get(key, default)
        if value is None:
            raise GGUFError(f"key {key!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise GGUFError(f"key {key!r} must be a whole number up to {MAX_COUNT}, not {_short(value)}")
        return value

    def counts(self, key: str, layers: int, default: int) -> list[int]:
        """One number for all layers, or one for each."""
        value = self.all.get(key)
        if not isinstance(value, tuple):
            return [self.count(key, default)] * layers
        if len(value) < layers or not all(isinstance(one, int) and 0 <= one <= MAX_COUNT for one in value):
            raise GGUFError(f"key {key!r} must have a whole number for each of {layers} layers")
        return [int(one) for one in value[:layers]]


def _check_purpose(values: _Values) -> None:
    """Refuse well-formed files that are no model by themselves."""
    kind = values.text("general.type") or "model"
    if kind != "model":
        raise GGUFError(f"the file holds a {kind[:40]!r}, not a model")
    if values.count("split.count", 1) > 1:
        raise GGUFError("the file is one part of a split model: join the parts with llama-gguf-split --merge")
    if values.text("general.architecture") == "clip":
        raise GGUFError("the file holds only the vision part of a model (mmproj)")


def _check_data(tensors: list[Tensor], alignment: int, header: int, size: int) -> None:
    """Tensors lie one behind the other, as llama.cpp wants them, and within the file."""
    if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise GGUFError(f"alignment {alignment} is not a power of 2 up to 1 MiB")
    start = -(-header // alignment) * alignment
    expected = 0
    names = set()
    for tensor in tensors:
        if tensor.name in names:
            raise GGUFError(f"tensor {tensor.name!r} is given twice")
        names.add(tensor.name)
        if tensor.offset != expected:
            raise GGUFError(f"tensor {tensor.name!r} has offset {tensor.offset}, expected {expected}")
        end = start + tensor.offset + tensor.size
        if end > size:
            raise GGUFError(f"truncated: tensor {tensor.name!r} ends at byte {end}, the file at byte {size}")
        expected += -(-tensor.size // alignment) * alignment


def _describe(values: _Values, tensors: list[Tensor], cursor: Cursor, size: int) -> Header:
    architecture = values.text("general.architecture")
    if not architecture:
        raise GGUFError("key 'general.architecture' is missing")
    layers = values.count(f"{architecture}.block_count")
    if not 0 < layers <= MAX_LAYERS:
        raise GGUFError(f"{layers} layers; 1 to {MAX_LAYERS} are allowed")
    if (experts := values.count(f"{architecture}.expert_count", 0)) > MAX_EXPERTS:
        raise GGUFError(f"{experts} experts; at most {MAX_EXPERTS} are allowed")
    embedding = values.count(f"{architecture}.embedding_length")
    heads = values.counts(f"{architecture}.attention.head_count", layers, 0)
    kv_heads = values.counts(f"{architecture}.attention.head_count_kv", layers, max(heads))
    width = embedding // max(heads) if max(heads) else 0
    key, value = (values.count(f"{architecture}.attention.{one}_length", width) for one in ("key", "value"))
    tokens = _check_vocabulary(values, tensors, cursor)
    sizes = {one.name: one.size for one in tensors}
    return Header(
        metadata=values.all,
        size=size,
        tensors=len(tensors),
        tensor_bytes=sum(tensor.size for tensor in tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        architecture=architecture,
        name=values.text("general.name"),
        quantisation=QUANTISATIONS.get(values.count("general.file_type", MAX_COUNT)),
        context_length=values.count(f"{architecture}.context_length"),
        embedding_length=embedding,
        layers=layers,
        heads=max(heads),
        kv_heads=max(kv_heads),
        kv_width=sum(kv_heads) * (key + value),
        query_width=max(heads) * key,
        feed_forward=_feed_forward(values, architecture, layers),
        window=values.count(f"{architecture}.attention.sliding_window", 0),
        matrices=_matrices(tensors),
        blocks=_blocks(tensors, layers),
        head=sizes.get("output.weight", sizes.get("token_embd.weight", 0)),
        tied="output.weight" not in sizes,
        vocabulary=tokens.count,
        bos_token=_token(values, tokens, cursor, "tokenizer.ggml.bos_token_id"),
        eos_token=_token(values, tokens, cursor, "tokenizer.ggml.eos_token_id"),
        chat_template=values.text("tokenizer.chat_template"),
    )


def _feed_forward(values: _Values, architecture: str, layers: int) -> int:
    widest = max(values.counts(f"{architecture}.feed_forward_length", layers, 0))
    of_expert = values.count(f"{architecture}.expert_feed_forward_length", 0) or widest
    return max(widest, of_expert * values.count(f"{architecture}.expert_used_count", 0))


def _matrices(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes by type. Where there is no output matrix, the vocabulary's embedding is used as one."""
    last = "output.weight" if any(one.name == "output.weight" for one in tensors) else "token_embd.weight"
    found: dict[int, int] = {}
    for one in tensors:
        if len(one.shape) > 1 and (one.name.startswith("blk.") or one.name == last):
            found[one.kind] = found.get(one.kind, 0) + one.size
    return found


def _blocks(tensors: list[Tensor], layers: int) -> tuple[int, ...]:
    sizes = [0] * layers
    for one in tensors:
        kind, _, rest = one.name.partition(".")
        number = rest.partition(".")[0]
        if kind == "blk" and number.isdecimal() and int(number) < layers:
            sizes[int(number)] += one.size
    return tuple(sizes)


def _check_vocabulary(values: _Values, tensors: list[Tensor], cursor: Cursor) -> Array:
    tokens = values.all.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.kind != STRING:
        raise GGUFError("the file has no vocabulary (key 'tokenizer.ggml.tokens')")
    if not 0 < tokens.count <= MAX_VOCABULARY:
        raise GGUFError(f"a vocabulary of {tokens.count} tokens; 1 to {MAX_VOCABULARY} are allowed")
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and tensor.shape[1:] != (tokens.count,):
            raise GGUFError(f"{tokens.count} tokens in the vocabulary, but an embedding of {tensor.shape}")
    for key, kinds in (("scores", (FLOAT32, INT32)), ("token_type", (INT32,))):
        numbers = values.all.get(f"tokenizer.ggml.{key}")
        if numbers is None:
            continue
        if not isinstance(numbers, Array) or numbers.kind not in kinds or numbers.count < tokens.count:
            raise GGUFError(f"key 'tokenizer.ggml.{key}' does not have a number for each token")
    texts = set(cursor.strings(tokens))
    if b"" not in texts and len(texts) != tokens.count:
        raise GGUFError("the vocabulary has a token twice")
    return tokens


def _token(values: _Values, tokens: Array, cursor: Cursor, key: str) -> str | None:
    """The text of a special token; None where there is none or it is not in the vocabulary."""
    number = values.all.get(key)
    if not isinstance(number, int) or not 0 <= number < tokens.count:
        return None
    return next(cursor.strings(tokens, number)).decode("utf-8", "replace")


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
