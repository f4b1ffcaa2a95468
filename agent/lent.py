"""Memory that the agent lends to a Worker: large tensors are written there once, and read where they lie.

Each Worker has its own, made for it and gone with it, so that none can read what was meant for another. It is
bounded: what finds no room there goes through the socket. Only the agent writes it, and it reads none of it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from agent.frames import Infer
from agent.tensor import Tensor

SIZE = 32 << 20  # bytes; those that were never lent take no memory
LEAST = 16 << 10  # bytes of a request's tensors; the socket is as fast for fewer
ALIGNED = 64  # bytes: what arrays' arithmetic likes best


class Pool:
    """Which parts are lent. Does no I/O.

    A part that is free again is the next to be lent, since it is in the CPU's cache. Sizes are rounded up, by
    a quarter at most, so that most free parts fit most requests.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0  # bytes from the start that are, or have been, lent
        self._lent: dict[int, int] = {}  # where a part begins, and its bytes
        self._free: dict[int, list[int]] = {}  # by bytes, where parts begin

    def take(self, size: int) -> int | None:
        """Where so many bytes are lent; None: there is no room."""
        rounded = _rounded(size)
        if free := self._free.get(rounded):
            at = free.pop()
        elif self._used + rounded <= self._size:
            at, self._used = self._used, self._used + rounded
        else:
            return None
        self._lent[at] = rounded
        return at

    def give(self, at: int) -> None:
        """It is free again. ValueError: it was not lent."""
        if (size := self._lent.pop(at, None)) is None:
            raise ValueError(f"{at} was not lent")
        if self._lent:
            self._free.setdefault(size, []).append(at)
        else:  # parts of other sizes may begin anew
            self._used, self._free = 0, {}


def _rounded(size: int) -> int:
    step = max(ALIGNED, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


class Lender:
    """The agent's side. `fd` is for the Worker to inherit."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        # Whoever cut it short would kill the other side at its next look.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = mmap.mmap(self.fd, SIZE)
        self._pool = Pool(SIZE)

    def lend(self, asked: Infer) -> Infer:
        """With its tensors in this memory; the same frame, where they are small or there is no room."""
        sizes = [-(-len(one.data) // ALIGNED) * ALIGNED for one in asked.inputs]
        if (total := sum(sizes)) < LEAST or (begin := self._pool.take(total)) is None:
            return asked
        inputs, lent, at = [], [], begin
        for one, size in zip(asked.inputs, sizes, strict=True):
            end = at + len(one.data)
            self._memory[at:end] = one.data
            inputs.append(Tensor(one.name, one.datatype, one.shape, b""))
            lent.append((at, end))
            at += size
        return Infer(asked.id, tuple(inputs), asked.outputs, asked.priority, asked.deadline, tuple(lent))

    def given_back(self, parts: list[int]) -> None:
        """Where parts begin that the Worker reads no longer. ValueError: one was not lent."""
        for at in parts:
            self._pool.give(at)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


class Borrower:
    """The Worker's side."""

    def __init__(self, fd: int) -> None:
        self._memory = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))

    def whole(self, asked: Infer) -> Infer:
        """With its tensors as they lie; they may be read until the part is given back."""
        if not asked.lent:
            return asked
        pairs = zip(asked.inputs, asked.lent, strict=True)
        inputs = tuple(
            Tensor(one.name, one.datatype, one.shape, self._memory[begin:end]) for one, (begin, end) in pairs
        )
        return Infer(asked.id, inputs, asked.outputs, asked.priority, asked.deadline, asked.lent)
