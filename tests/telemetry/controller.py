"""A controller's end of the contract in memory: what it has, and how far without a hole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import zstandard

from cloud_sync.messages import Answer, Desired, Received, Renew, Renewed, Report, Row, Stream, Telemetry
from cloud_sync.transports.transport import LinkError, Rejected


class Kept:
    """As the controller keeps it: a number that is there already is not changed by what comes again."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Stream], dict[int, Row]] = {}
        self.batches: list[Telemetry] = []
        self.bytes = 0

    def take(self, data: bytes) -> Received:
        self.bytes += len(data)
        return self.keep(Telemetry.model_validate_json(zstandard.decompress(data)))

    def keep(self, batch: Telemetry) -> Received:
        self.batches.append(batch)
        for stream, rows in batch.streams.items():
            assert [row.seq for row in rows] == sorted({row.seq for row in rows})
            here = self.rows.setdefault((batch.database, stream), {})
            for row in rows:
                here.setdefault(row.seq, row)
        return Received(received={stream: self.mark(batch.database, stream) for stream in batch.streams})

    def mark(self, database: str, stream: Stream) -> int:
        mark = 0
        for seq, row in sorted(self.rows.get((database, stream), {}).items()):
            if (row.first or seq) > mark + 1:
                break
            mark = max(mark, seq)
        return mark

    def all(self, stream: Stream) -> list[Row]:
        """Of all databases, in order of each."""
        return [
            row for (_, name), rows in self.rows.items() if name == stream for _, row in sorted(rows.items())
        ]


class Way:
    """A Transport to it, which can be cut before or after what is sent arrives, or refuse."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.answers_lost = 0  # of the next ones
        self.refuses: Callable[[Telemetry], str] = lambda batch: ""  # with this code
        self.tries: list[Telemetry] = []

    async def telemetry(self, batch: bytes) -> Received:
        told = Telemetry.model_validate_json(zstandard.decompress(batch))
        self.tries.append(told)
        if code := self.refuses(told):
            raise Rejected(code, "no")
        answer = self.kept.take(batch)
        if self.answers_lost:
            self.answers_lost -= 1
            raise LinkError("the answer was lost")
        return answer

    async def report(self, report: Report) -> Answer:
        raise LinkError("only telemetry goes here")

    async def desired(self, known: Desired | None) -> Desired | None:
        raise LinkError("only telemetry goes here")

    async def hints(self) -> AsyncIterator[int]:
        raise LinkError("only telemetry goes here")
        yield 0

    async def renew(self, asked: Renew) -> Renewed:
        raise LinkError("only telemetry goes here")

    async def close(self) -> None:
        pass
