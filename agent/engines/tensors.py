"""Tensors between the socket and an Engine: raw bytes in, arrays together in a batch, raw bytes out.

Raw means row-major and little endian; of BYTES each element behind its length in four bytes, as the Open
Inference Protocol has it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.engines.engine import EngineError
from agent.tensor import Tensor, elements

Array = NDArray[np.generic]

_KINDS: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def dtype(datatype: str) -> np.dtype[np.generic]:
    """Of an array that holds this datatype."""
    return np.dtype(object) if datatype == "BYTES" else _KINDS[datatype]


def to_array(tensor: Tensor) -> Array:
    """No copy, but for BYTES: objects of type bytes. The door has checked that size and shape agree."""
    if tensor.datatype == "BYTES":
        values = np.empty(len(tensor), object)
        values[:] = elements(tensor.data)
        return values.reshape(tensor.shape)
    return np.frombuffer(tensor.data, _KINDS[tensor.datatype]).reshape(tensor.shape)


def to_tensor(name: str, array: Array) -> Tensor:
    shape = tuple(array.shape)
    if array.dtype == object or array.dtype.kind in "US":
        raw = b"".join(map(_framed, array.ravel().tolist()))
        return Tensor(name, "BYTES", shape, raw)
    if array.dtype not in _NAMES:
        raise EngineError(f"output {name} has elements of {array.dtype}, which cannot be sent")
    return Tensor(name, _NAMES[array.dtype], shape, np.ascontiguousarray(array).tobytes())


def together(parts: Sequence[Array]) -> Array:
    """One batch, along the first axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _framed(value: object) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode()
    return struct.pack("<I", len(data)) + data
