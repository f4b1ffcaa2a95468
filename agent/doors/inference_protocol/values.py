"""A tensor's values: as JSON has them, and as raw bytes."""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Any

from agent.errors import BadRequest
from agent.tensor import Data, elements

_CODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP32": "f", "FP64": "d",
}  # fmt: skip
_SWAPS = sys.byteorder == "big"


def to_raw(name: str, datatype: str, values: Any, count: int) -> bytes:
    """`values`, nested or flat, of so many elements. Raises BadRequest."""
    flat = _flat(values)
    if len(flat) != count:
        raise BadRequest(f"input '{name}' has {len(flat)} values, and its shape asks for {count}")
    try:
        return _pack(datatype, flat)
    except (TypeError, ValueError, OverflowError, struct.error, AttributeError):
        raise BadRequest(f"input '{name}' has a value that is no {datatype}") from None


def from_raw(datatype: str, raw: Data) -> list[Any]:
    """The values, flat."""
    if datatype == "BYTES":
        return [element.decode("utf-8", "replace") for element in elements(raw)]
    if datatype == "BOOL":
        return [byte != 0 for byte in raw]
    if datatype == "FP16":
        return list(struct.unpack(f"<{len(raw) // 2}e", raw))
    values = array(_CODES[datatype], raw)
    if _SWAPS:
        values.byteswap()
    return values.tolist()


def _pack(datatype: str, flat: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(len(data).to_bytes(4, "little") + data for data in (text.encode() for text in flat))
    if datatype == "BOOL":
        if any(value not in (0, 1) for value in flat):
            raise ValueError
        return bytes(bool(value) for value in flat)
    if any(isinstance(value, bool | str) for value in flat):
        raise TypeError
    if datatype == "FP16":
        return struct.pack(f"<{len(flat)}e", *flat)
    values = array(_CODES[datatype], flat)
    if _SWAPS:
        values.byteswap()
    return values.tobytes()


def _flat(nested: Any) -> list[Any]:
    """Level by level, so that deep nesting needs no stack."""
    values: list[Any] = nested if isinstance(nested, list) else [nested]
    while any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) for value in values):
            raise BadRequest("the data has numbers and lists side by side")
        values = [inner for outer in values for inner in outer]
    return values
