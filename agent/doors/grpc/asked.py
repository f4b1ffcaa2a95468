"""A ModelInferRequest as it came: its raw tensors are left where they lie, and protobuf reads the rest.

protobuf would copy them twice. What is not as clients write it is protobuf's to judge, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from agent.doors.grpc import oip_pb2 as pb
from agent.errors import BadRequest
from agent.tensor import Data

LEAST = 16 * 1024  # bytes; of smaller messages a copy is cheaper than a look
MOST_FIELDS = 64  # at the message's top that are looked at
_RAW = 7 << 3 | 2  # raw_input_contents; as all fields there, behind its length

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Asked:
    """`raw`: its `raw_input_contents`, which `request` may lack. `size`: bytes of all else."""

    request: pb.ModelInferRequest
    raw: Sequence[Data]
    size: int


def parse(kind: type[M], data: bytes) -> M:
    """A message of this kind. Raises BadRequest."""
    try:
        return kind.FromString(data)  # type: ignore[attr-defined,no-any-return]  # protobuf has no types
    except DecodeError:
        raise BadRequest(f"the message is not a {kind.__name__}") from None


def parse_asked(data: bytes) -> Asked:
    """Raises BadRequest."""
    if len(data) >= LEAST and (found := split(data)) is not None:
        rest, raw = found
        return Asked(parse(pb.ModelInferRequest, rest), raw, len(rest))
    request = parse(pb.ModelInferRequest, data)
    contents = list(request.raw_input_contents)
    return Asked(request, contents, len(data) - sum(map(len, contents)))


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
