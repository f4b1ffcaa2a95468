"""Where the raw tensors of a ModelInferRequest lie in its bytes. Knows as much of protobuf as that needs."""

from __future__ import annotations

from agent.tensor import Data

MOST_FIELDS = 64  # at the message's top that are looked at
_RAW = 7 << 3 | 2  # raw_input_contents; as all fields there, behind its length


def split(data: bytes) -> tuple[bytes, list[Data]] | None:
    """The message without `raw_input_contents`, and these. None: it is unusual, or broken."""
    view, at = memoryview(data), 0
    rest: list[memoryview] = []
    raw: list[Data] = []
    for _ in range(MOST_FIELDS):
        if at == len(data):
            return b"".join(rest), raw
        begin = at
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        end = at + size
        if tag & 7 != 2 or end > len(data):
            return None
        if tag == _RAW:
            raw.append(view[at:end])
        else:
            rest.append(view[begin:end])
        at = end
    return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends; of five bytes at most, the last of which may be missing."""
    value = shift = 0
    for byte in data[at : at + 5]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 1 << 40, at  # longer than any message
