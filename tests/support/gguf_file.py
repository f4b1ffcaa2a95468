"""Writes small GGUF files: as much of one as a test needs, well-formed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ECHO_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.content == '<refuse>' %}{{ raise_exception('told to refuse') }}{% endif %}"
    "{% if message.content == '<loop>' %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% endif %}"
    "{% if message.content == '<surrogate>' %}{{ '\\ud800' }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant: "
)

MINIMAL: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 4096,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 1,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": ECHO_TEMPLATE,
}


def gguf_bytes(metadata: Mapping[str, Any] = MINIMAL, *, salt: int = 0) -> bytes:
    """A header with this metadata and one tensor of 32 floats that hold `salt`."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(metadata))
    for key, value in metadata.items():
        head += _string(key) + _typed(value)
    head += _string("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
    head += b"\0" * (-len(head) % 32)
    return head + struct.pack("<32f", *[float(salt)] * 32)


def write_gguf(path: Path, metadata: Mapping[str, Any] = MINIMAL, *, salt: int = 0) -> Path:
    path.write_bytes(gguf_bytes(metadata, salt=salt))
    return path


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(one) for one in value)
    raise TypeError(f"no GGUF type for {value!r}")
