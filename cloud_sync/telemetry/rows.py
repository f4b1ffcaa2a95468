"""What the file of telemetry takes and gives: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, get_args

from cloud_sync.messages import Stream

STREAMS: tuple[Stream, ...] = get_args(Stream)
"""The most valuable first."""
GAP = "gap"


class Worth(IntEnum):
    """Of a row, within its stream."""

    LEAST = 0
    MORE = 1  # alarms and Updates among events, hours among metrics
    GAP = 2  # nothing is left to be given up


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of telemetry, as it comes to be. Events of one `key` within an hour are counted;
    in other streams it says nothing.
    """

    stream: Stream
    at: float  # wall time, seconds
    kind: str
    body: dict[str, Any]
    worth: Worth = Worth.LEAST
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the controller."""

    rows: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    given_up: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))  # ever
    oldest: float | None = None  # wall time
