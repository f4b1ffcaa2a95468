"""What the node must not forget: what it accepted (prompts, tensors), results, and what waits for a receiver.

    accept --> waiting --claim--> running --finish--> done --purge--> gone
                  ^                  |
                  '-- release, resume'

`finish` writes the result, the outbox rows and the inbox row's state in one transaction; the first result
wins. Every write is queued when it is called, in that order; its future resolves after the commit, or raises
StateError.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from cloud_sync import ledger, schema
from cloud_sync.rows import MAX_LIVES, Accepted, Address, Known, Parcel, Prompt, Purged
from cloud_sync.writer import StateError, Writer

__all__ = ["MAX_LIVES", "Accepted", "Address", "Known", "Parcel", "Prompt", "Purged", "State", "StateError"]

T = TypeVar("T")
log = structlog.get_logger()


class State:
    """The node's database. The constructor blocks and raises StateError; all else is for the event loop.

    `keep_s` tells how long a finished prompt is kept, to answer repeats and receivers that were away.
    """

    def __init__(
        self, path: Path, *, keep_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_s = keep_s
        self._clock = clock
        try:
            self.set_aside = schema.prepare(path)  # the damaged file that was in the way, if any
            self._reader = schema.connect(path)
            self._writer = Writer(partial(schema.connect, path))
        except sqlite3.Error as error:
            raise StateError(f"{path}: {error}") from error
        if self.set_aside is not None:
            lost = "accepted prompts and kept results, until recovered"
            log.error("the database was damaged and is set aside", file=str(self.set_aside), lost=lost)
        self._reading = ThreadPoolExecutor(1, "state-reader")
        self._epoch = ledger.latest_time(self._reader) - clock()

    def now(self) -> float:
        """Node time: seconds that agents have run on this database. Does not jump with the wall clock."""
        return self._epoch + self._clock()

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._reading.shutdown)
        self._reader.close()

    def accept(
        self,
        sender: str,
        id: str,
        body: bytes,
        address: Address,
        *,
        model: str | None = None,
        header_length: int | None = None,
    ) -> asyncio.Future[Accepted]:
        """Keep a prompt, or find that it is known. `id` is unique for its sender ("": senders unnamed).

        With a `model` it is tensors for it; its first `header_length` bytes are JSON where raw ones follow.
        """
        asked = (sender, id, body, model, header_length, address)
        return self._writer.do(partial(ledger.accept, *asked, self._keep_s(), self.now()))

    def claim(
        self,
        limit: int,
        held: Collection[str] = (),
        *,
        most_bytes: int = 1 << 62,
        prompts: bool = True,
        tensors: bool = True,
    ) -> asyncio.Future[list[Prompt]]:
        """Waiting prompts, none from the senders in `held`, their bodies of `most_bytes` together.

        A sender's are in the order of arrival; senders take turns, so that none waits behind another's many.
        Where nothing runs, one of any size is given. They are counted as begun before they run. Either kind
        can be left out.
        """
        kinds = {"prompts": prompts, "tensors": tensors}
        return self._writer.do(partial(ledger.claim, limit, most_bytes, tuple(held), kinds))

    def release(self, seqs: Iterable[int], *, begun: bool) -> asyncio.Future[None]:
        """Give claimed prompts back: it was no run. Of one that was `begun`, the attempt's number is used."""
        return self._writer.do(partial(ledger.release, tuple(seqs), begun))

    def resume(self, running: Collection[int] = ()) -> asyncio.Future[int]:
        """Let everything that was claimed wait again, except what is still `running`; how many those were."""
        return self._writer.do(partial(ledger.resume, tuple(running)))

    def began_again(self, seq: int, *, attempts: int = 1, deaths: int = 0) -> asyncio.Future[int]:
        """The answer began anew so often, because so many Workers died: how many have by now."""
        return self._writer.do(partial(ledger.began_again, seq, attempts, deaths))

    def finish(self, seq: int, payload: bytes, header_length: int | None = None) -> asyncio.Future[bool]:
        """Keep the result and owe it to all who asked. False: there was one already, and that one stays."""
        return self._writer.do(
            partial(ledger.finish, seq, payload, header_length, self._keep_s(), self.now())
        )

    def post(self, address: Address, payload: bytes, unless: Known | None = None) -> asyncio.Future[None]:
        """Owe a message that belongs to no accepted prompt, such as a refusal."""
        return self._writer.do(partial(ledger.post, address, payload, unless, self._keep_s(), self.now()))

    async def due(self, after: int, limit: int) -> list[Parcel]:
        """What waits for receivers, in order, from the row after `after` on."""
        return await self._read(partial(ledger.due, after, limit, self.now()))

    def delivered(self, seq: int) -> asyncio.Future[None]:
        """The broker has it: the row goes, unless its receiver was asked to say so itself."""
        return self._writer.do(partial(ledger.delivered, seq))

    def acknowledged(self, sender: str, ids: Iterable[str]) -> asyncio.Future[int]:
        """The receiver has these results: their rows go. How many went."""
        return self._writer.do(partial(ledger.acknowledged, sender, tuple(ids)))

    def purge(self) -> asyncio.Future[Purged]:
        """Drop some of what is past its time and give the pages back; call again until nothing goes."""
        return self._writer.do(partial(ledger.purge, self._keep_s(), self.now()))

    def probe(self) -> asyncio.Future[None]:
        """Resolves if the database can be written (again)."""
        return self._writer.do(partial(ledger.keep_time, self.now()))

    async def counts(self) -> dict[str, int]:
        """How many prompts are `waiting` and `running`, and messages in the `outbox`."""
        return await self._read(ledger.counts)

    async def _read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, look, self._reader)
        except sqlite3.Error as error:
            raise StateError(str(error)) from error
