"""A controller's end of the contract in memory: what it has, and how far without a hole."""

from __future__ import annotations

import zstandard

from cloud_sync.messages import Received, Row, Stream, Telemetry
from cloud_sync.telemetry.rows import STREAMS


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

    def marks(self, database: str) -> dict[Stream, int]:
        return {stream: self.mark(database, stream) for stream in STREAMS}
