"""Writes small ONNX files: as much protobuf as a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FLOAT, INT32, INT64, STRING = 1, 6, 7, 8
Shape = Sequence[int | None]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def value_info(name: str, kind: int, shape: Shape) -> bytes:
    dims = b"".join(data(1, data(2, "n") if size is None else number(1, size)) for size in shape)
    return data(1, name) + data(2, data(1, number(1, kind) + data(2, dims)))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    names = b"".join(data(1, name) for name in inputs) + b"".join(data(2, name) for name in outputs)
    return names + data(4, op)


def external_tensor(name: str, location: str) -> bytes:
    return (
        number(1, 1)
        + number(2, FLOAT)
        + data(8, name)
        + data(13, data(1, "location") + data(2, location))
        + number(14, 1)
    )


def onnx_bytes(
    *,
    op: str = "Identity",
    inputs: Sequence[tuple[str, int, Shape]] = (("x", FLOAT, (None, 3)),),
    outputs: Sequence[tuple[str, int, Shape]] = (("y", FLOAT, (None, 3)),),
    opset: int = 17,
    initializers: Sequence[bytes] = (),
) -> bytes:
    graph = data(1, node(op, [name for name, _, _ in inputs], [name for name, _, _ in outputs])) + data(
        2, "g"
    )
    graph += b"".join(data(5, one) for one in initializers)
    graph += b"".join(data(11, value_info(*one)) for one in inputs)
    graph += b"".join(data(12, value_info(*one)) for one in outputs)
    return number(1, 8) + data(7, graph) + data(8, data(1, "") + number(2, opset))


def write_onnx(path: Path, **how: object) -> Path:
    path.write_bytes(onnx_bytes(**how))  # type: ignore[arg-type]
    return path
