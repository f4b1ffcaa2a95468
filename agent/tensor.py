"""The nouns of one inference: Tensor, Inference, Outputs. Plain data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

SIZES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4,
    "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
"""Bytes of an element, by the Open Inference Protocol's datatype; BYTES elements vary."""

if TYPE_CHECKING:
    Data = bytes | memoryview
else:
    Data = bytes  # what a decoder of frames makes


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` is row-major and little endian; of BYTES, each element behind its length in four bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data

    def __len__(self) -> int:
        """How many elements it has."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What is asked of a Model of tensors. Made by a door, owned by serving until its Outputs."""

    id: str  # unique in this agent
    model: str = ""  # "" is the node's default
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()  # names; none: all
    priority: int | None = None  # 0 to 9, 9 is served first; None: as the settings say
    deadline: float | None = None  # on the monotonic clock, seconds
    sender: str = ""  # whose turn this is, for limits
    session: str = ""  # who keeps the Version that answered; "" is nobody
    keep_alive: float | None = None  # seconds that the Model stays loaded after it; negative: for ever
    further: bool = False  # part of what came with others and was counted with the first, for limits
    patient: bool = False  # its wall time begins when a Worker has it, not while it waits


@dataclass(frozen=True, slots=True)
class Outputs:
    """The one answer to an Inference."""

    tensors: tuple[Tensor, ...]


def elements(raw: Data) -> list[bytes]:
    """Those of a BYTES tensor. ValueError: the lengths in it do not add up."""
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise ValueError("an element is longer than what is left")
        found.append(bytes(raw[at + 4 : end]))
        at = end
    return found
