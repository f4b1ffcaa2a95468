"""The bytes of a GGUF header, read within bounds: no count in a file decides what is allocated.

`gguf.py` gives the values their meaning.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.errors import GGUFError
from models.gguf_types import BLOCKS, FLOAT32, INT32, STRING, UINT32

MAX_HEADER = 64 * 1024 * 1024  # bytes before the tensors' data; a vocabulary of 262,144 takes about 15 MiB
MAX_KEYS = 16_384
MAX_KEY = 1_024  # bytes
MAX_TENSORS = 65_536
MAX_TENSOR_NAME = 63  # bytes; ggml's limit
MAX_DIMS = 4  # ggml's limit
MAX_STRING = 1024 * 1024  # a longer one stays in the file
MAX_KEPT_ARRAY = 1_024  # elements; a longer array stays in the file
VOCABULARY = "tokenizer.ggml."  # arrays with such a key always stay in the file
MAX_KEPT = 8 * 1024 * 1024  # bytes, roughly, of all values held in memory

_ARRAY = 9
_FIXED = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    UINT32: struct.Struct("<I"),
    INT32: struct.Struct("<i"),
    FLOAT32: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_WINDOW = 256 * 1024  # bytes fetched at a time
_STRIDE = 512  # strings between two remembered places


@dataclass(frozen=True, slots=True)
class Array:
    """A long value that stayed in the file. `marks` are offsets: of the start, for strings of each 512th."""

    kind: int  # GGUF's type number of the elements
    count: int
    marks: array[int]


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # ggml's order: the row's length first
    kind: int
    offset: int  # bytes from the start of the data
    elements: int
    size: int  # bytes


class Cursor:
    """A place in an open file that little-endian values are read from. GGUFError: past the end or bound."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.at = 0
        self._descriptor = descriptor
        self._size = size
        self._window = b""
        self._start = 0  # of the window in the file
        self._kept = 0

    def take(self, count: int) -> bytes:
        self._need(count)
        begin = self.at - self._start
        self.at += count
        return self._window[begin : begin + count]

    def _need(self, count: int) -> None:
        """Have the next `count` bytes in the window."""
        self._check(self.at + count)
        if self._start <= self.at and self.at + count <= self._start + len(self._window):
            return
        self._window = os.pread(self._descriptor, max(_WINDOW, count), self.at)
        self._start = self.at
        if len(self._window) < count:
            raise GGUFError(f"the file ends within its header, at byte {self.at + len(self._window)}")

    def _check(self, end: int) -> None:
        if end > self._size:
            raise GGUFError(f"truncated: the header reaches past the file's end at byte {self._size}")
        if end > MAX_HEADER:
            raise GGUFError(f"the header is longer than {MAX_HEADER} bytes")

    def skip(self, count: int) -> None:
        self._check(self.at + count)
        self.at += count

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def name(self, limit: int, what: str) -> str:
        length = self.u64()
        if not 0 < length <= limit:
            raise GGUFError(f"{what} of {length} bytes; 1 to {limit} are allowed")
        return self.take(length).decode("utf-8", "replace")

    def value(self, key: str) -> Any:
        """The next typed value: a number, str, bool, a tuple of these, or an Array where it is long."""
        kind = self.u32()
        if kind == _ARRAY:
            return self._array(key)
        if kind == STRING:
            return self._string()
        return self._fixed(kind, key).unpack(self.take(self._fixed(kind, key).size))[0]

    def _fixed(self, kind: int, key: str) -> struct.Struct:
        if kind not in _FIXED:
            what = "a nested array" if kind == _ARRAY else f"a value of unknown type {kind}"
            raise GGUFError(f"key {key!r} holds {what}")
        return _FIXED[kind]

    def _string(self) -> str | Array:
        begin, length = self.at, self.u64()
        if length > MAX_STRING or not self._keep(length):
            self.skip(length)
            return Array(STRING, 1, array("Q", [begin]))
        return self.take(length).decode("utf-8", "replace")

    def _array(self, key: str) -> tuple[Any, ...] | Array:
        kind, count, begin = self.u32(), self.u64(), self.at
        short = count <= MAX_KEPT_ARRAY and not key.startswith(VOCABULARY)
        if kind == STRING:
            long = Array(STRING, count, self._walk(count))
            if not short or not self._keep(self.at - begin + 32 * count):
                return long
            return tuple(text.decode("utf-8", "replace") for text in self.strings(long))
        item = self._fixed(kind, key)
        self._check(self.at + count * item.size)
        if not short or not self._keep(32 * count):
            self.skip(count * item.size)
            return Array(kind, count, array("Q", [begin]))
        return tuple(value for (value,) in item.iter_unpack(self.take(count * item.size)))

    def _keep(self, cost: int) -> bool:
        if self._kept + cost > MAX_KEPT:
            return False
        self._kept += cost
        return True

    def _walk(self, count: int) -> array[int]:
        """Go past `count` strings; the offset of each 512th. A vocabulary's time is spent in this loop."""
        self._check(self.at + 8 * count)
        marks = array("Q")
        unpack = _U64.unpack_from
        begin, window, limit = self._start, self._window, len(self._window) - 8
        at = self.at - begin
        for left in range(count, 0, -_STRIDE):
            marks.append(begin + at)
            for _ in range(min(left, _STRIDE)):
                if at > limit:
                    self.at = begin + at
                    self._need(8)
                    begin, window, limit = self._start, self._window, len(self._window) - 8
                    at = self.at - begin
                at += 8 + unpack(window, at)[0]
        self.at = begin + at
        self._check(self.at)
        return marks

    def strings(self, texts: Array, first: int = 0) -> Iterator[bytes]:
        """The strings of an Array from number `first` on. Do not move the cursor meanwhile."""
        back, unpack = self.at, _U64.unpack_from
        at = texts.marks[first // _STRIDE] if first < texts.count else back
        try:
            for number in range(first - first % _STRIDE, texts.count):
                begin, window = self._start, self._window
                if not begin <= at <= begin + len(window) - 8:
                    begin, window = self._have(at, 8)
                length = unpack(window, at - begin)[0]
                at += 8 + length
                if at > begin + len(window):
                    begin, window = self._have(at - length, length)
                if number >= first:
                    yield window[at - length - begin : at - begin]
        finally:
            self.at = back

    def _have(self, at: int, count: int) -> tuple[int, bytes]:
        self.at = at
        self._need(count)
        return self._start, self._window


def read_tensor(cursor: Cursor) -> Tensor:
    name = cursor.name(MAX_TENSOR_NAME, "a tensor's name")
    dims = cursor.u32()
    if dims > MAX_DIMS:
        raise GGUFError(f"tensor {name!r} has {dims} dimensions; at most {MAX_DIMS} are allowed")
    shape = tuple(cursor.u64() for _ in range(dims))
    kind, offset = cursor.u32(), cursor.u64()
    if kind not in BLOCKS:
        raise GGUFError(f"tensor {name!r} has type {kind}, which this engine does not know")
    elements = 1
    for length in shape:
        elements *= length
    block, size = BLOCKS[kind]
    if elements >= 1 << 62 or (shape[0] if shape else 1) % block:
        raise GGUFError(f"tensor {name!r} has an impossible shape {shape} for its type {kind}")
    return Tensor(name, shape, kind, offset, elements, elements // block * size)
