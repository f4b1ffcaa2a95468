"""The agent's end of a Worker's socket pair: sends without blocking, and lends memory for large tensors."""

from __future__ import annotations

import asyncio
import socket

from agent.frames import Infer, ToWorker, encode_onto
from agent.lent import Lender


class Line:
    """Made on the loop; `theirs` and `memory` are for the Worker to inherit."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.lends = False  # the Worker takes tensors from the memory
        self._lender = Lender()
        self._outgoing = bytearray()

    @property
    def memory(self) -> int:
        """Its file descriptor."""
        return self._lender.fd

    def send(self, frame: ToWorker) -> None:
        """With what else this turn of the loop brings: one call, and the Worker wakes once."""
        if isinstance(frame, Infer) and self.lends:
            return self._send_lent(self._lender.lend(frame))
        self._append(frame)

    def _send_lent(self, frame: Infer) -> None:
        try:
            self._append(frame)
        except Exception:
            self._lender.given_back([begin for begin, _ in frame.lent[:1]])
            raise

    def _append(self, frame: ToWorker) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        encode_onto(self._outgoing, frame)

    def given_back(self, parts: list[int]) -> None:
        """ValueError: one was not lent."""
        self._lender.given_back(parts)

    def stop(self) -> None:
        """Neither hear nor send any more; the Worker sees an end at `close` alone."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.ours)
        loop.remove_writer(self.ours)
        self._outgoing.clear()

    def close(self) -> None:
        self.ours.close()
        self._lender.close()

    def _flush(self) -> None:
        if not self._outgoing:  # it was closed meanwhile, or what was to go could not be encoded
            return
        loop = asyncio.get_running_loop()
        try:
            sent = self.ours.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:  # it died: the reader finds out
            self._outgoing.clear()
            sent = 0
        del self._outgoing[:sent]
        if self._outgoing:
            loop.add_writer(self.ours, self._flush)
        else:
            loop.remove_writer(self.ours)
