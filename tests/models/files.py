"""GGUF files for tests: well-formed of any size, or with single bytes chosen."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.gguf_file import MINIMAL, gguf_bytes

MIB = 1024 * 1024


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def minimal_pairs(without: Sequence[str] = (), **more: Any) -> list[bytes]:
    """The keys of a small model, one item each, to add to, drop from or put in another order."""
    metadata = {key: value for key, value in MINIMAL.items() if key not in without} | more
    return [_one(key, value) for key, value in metadata.items()]


def _one(key: str, value: Any) -> bytes:
    """A key and its value as the well-formed writer writes them."""
    begin = 24
    whole = gguf_bytes({key: value})
    end = whole.index(string("token_embd.weight"))
    return whole[begin:end]


def raw(
    pairs: Sequence[bytes],
    tensors: Sequence[bytes] = (tensor("token_embd.weight", (8, 4)),),
    data: bytes = bytes(128),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    key_count: int | None = None,
) -> bytes:
    """A file of these parts, with counts that may lie."""
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if key_count is None else key_count,
    )
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def model_of(size: int, *, salt: int = 0, metadata: Mapping[str, Any] = {}) -> bytes:
    """A well-formed model of about `size` bytes that do not repeat."""
    floats = size // 4
    tensors = [tensor("token_embd.weight", (8, 4)), tensor("blk.0.x", (floats,), 0, 128)]
    noise = random.Random(salt).randbytes(floats * 4)
    return raw(minimal_pairs(**metadata), tensors, bytes(128) + noise)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
