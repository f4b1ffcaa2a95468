"""What an ONNX file says of itself, read before onnxruntime sees it: inputs, outputs, opsets, external data.

A walk over the protobuf's wire format that copies nothing but names, in bounded time: each byte belongs to
one field, only messages that can hold what is looked for are entered, and those to a bounded depth.
Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import ONNXError

DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES",
    9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
"""ONNX's element types, in the words of the Open Inference Protocol."""

MAX_FIELDS = 4_000_000
MAX_DEPTH = 32  # of graphs in nodes of graphs
MAX_NAME = 4_096  # bytes
MAX_TENSORS = 1_024  # inputs, or outputs
MAX_DIMS = 16

# Where a message of one kind holds messages of another: {field: kind}.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output. A dimension of None is any."""

    name: str
    datatype: str  # as the Open Inference Protocol names it
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Header:
    ir_version: int
    opsets: Mapping[str, int]  # by domain; "" is ONNX's own
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: tuple[str, ...]  # other files that hold its data, as it names them


def read_header(path: Path) -> Header:
    """ONNXError: what is wrong with it; OSError: the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ONNXError("not a regular file")
        if status.st_size == 0:
            raise ONNXError("the file is empty")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            return _Walk(view).model()
    finally:
        os.close(descriptor)


Field = tuple[
    int, int, int, int
]  # number, wire type, and where its value begins and ends (or the number itself)


class _Walk:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._left = MAX_FIELDS
        self._external: dict[str, None] = {}

    def model(self) -> Header:
        whole = (0, len(self._data))
        ir_version, graphs = 0, []
        opsets: dict[str, int] = {}
        for number, wire, start, end in self._fields(*whole):
            if number == 1 and wire == 0:
                ir_version = start
            elif number == 8 and wire == 2:
                opsets.update([self._opset(start, end)])
            elif number == 7 and wire == 2:
                graphs.append((start, end))
        if not ir_version or len(graphs) != 1 or not opsets:
            raise ONNXError("not an ONNX model: it has no version, graph or opset")
        inputs, outputs = self._interface(*graphs[0])
        if not outputs:
            raise ONNXError("the model has no outputs")
        self._find_external("model", *whole, MAX_DEPTH)
        return Header(ir_version, opsets, inputs, outputs, tuple(self._external))

    def _opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, at, to in self._fields(start, end):
            if number == 1 and wire == 2:
                domain = self._text(at, to)
            elif number == 2 and wire == 0:
                version = at
        return ("" if domain == "ai.onnx" else domain), version

    def _interface(self, start: int, end: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        initial: set[str] = set()  # inputs that have a value already, in old models
        found: dict[int, list[TensorSpec]] = {11: [], 12: []}
        for number, wire, at, to in self._fields(start, end):
            if wire != 2:
                continue
            if number == 5:
                initial.update(self._text(a, b) for n, w, a, b in self._fields(at, to) if (n, w) == (8, 2))
            elif number in found:
                found[number].append(self._spec(at, to))
                if len(found[number]) > MAX_TENSORS:
                    raise ONNXError(f"more than {MAX_TENSORS} inputs or outputs")
        inputs = tuple(one for one in found[11] if one.name not in initial)
        return inputs, tuple(found[12])

    def _spec(self, start: int, end: int) -> TensorSpec:
        name, kind = "", None
        for number, wire, at, to in self._fields(start, end):
            if (number, wire) == (1, 2):
                name = self._text(at, to)
            elif (number, wire) == (2, 2):
                kind = self._first(at, to, 1)  # tensor_type
        if not name or kind is None:
            raise ONNXError(
                f"{name or 'an input or output'} is not a plain tensor, which alone can be served"
            )
        elem = next((at for n, w, at, _ in self._fields(*kind) if (n, w) == (1, 0)), 0)
        if elem not in DATATYPES:
            raise ONNXError(f"{name} has elements of kind {elem}, which cannot be served")
        shape = self._first(*kind, 2)
        return TensorSpec(name, DATATYPES[elem], self._shape(name, *shape) if shape else ())

    def _shape(self, name: str, start: int, end: int) -> tuple[int | None, ...]:
        dims: list[int | None] = []
        for number, wire, at, to in self._fields(start, end):
            if (number, wire) == (1, 2):
                values = [a for n, w, a, _ in self._fields(at, to) if (n, w) == (1, 0)]
                dims.append(values[-1] if values and 0 < values[-1] < 1 << 40 else None)
        if len(dims) > MAX_DIMS:
            raise ONNXError(f"{name} has {len(dims)} dimensions")
        return tuple(dims)

    def _find_external(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth == 0:
            raise ONNXError("graphs are nested too deeply")
        inside = _INSIDE.get(kind, {})
        for number, wire, at, to in self._fields(start, end):
            if wire != 2:
                continue
            if kind == "tensor" and number == 13:
                self._note_external(at, to)
            elif number in inside:
                self._find_external(inside[number], at, to, depth - 1)

    def _note_external(self, start: int, end: int) -> None:
        entry = {n: self._text(at, to) for n, w, at, to in self._fields(start, end) if w == 2 and n in (1, 2)}
        if entry.get(1) == "location":
            self._external[entry.get(2, "")] = None

    def _first(self, start: int, end: int, wanted: int) -> tuple[int, int] | None:
        return next(((at, to) for n, w, at, to in self._fields(start, end) if (n, w) == (wanted, 2)), None)

    def _fields(self, start: int, end: int) -> Iterator[Field]:
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ONNXError("the file has too many parts")
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = self._varint(at, end)
                yield number, wire, value, 0
                continue
            if wire == 2:
                size, at = self._varint(at, end)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ONNXError("not an ONNX file")
            if number == 0 or size > end - at:
                raise ONNXError("not an ONNX file, or a truncated one")
            yield number, wire, at, at + size
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ONNXError("not an ONNX file, or a truncated one")

    def _text(self, start: int, end: int) -> str:
        if end - start > MAX_NAME:
            raise ONNXError("a name in it is too long")
        return bytes(self._data[start:end]).decode("utf-8", "replace")
