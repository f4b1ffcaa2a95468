"""A ModelInferRequest as it came: its raw tensors are left where they lie, and protobuf reads the rest.

protobuf would copy them twice. What is not as clients write it is protobuf's to judge, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from agent.doors.grpc import oip_pb2 as pb
from agent.doors.grpc.raw import split
from agent.errors import BadRequest
from agent.tensor import Data

LEAST = 16 * 1024  # bytes; of smaller messages a copy is cheaper than a look

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
