"""What the node's database takes and gives: plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_LIVES = 3  # Workers that one prompt may cost
MAX_RUNS = 5  # begun so often and never finished: it ends the agent itself


class Accepted(enum.Enum):
    """What became of a prompt that arrived."""

    NEW = "new"  # committed: it will be answered
    RUNNING = "running"  # the same again, not finished yet
    DONE = "done"  # the same again: its result is published again, byte for byte
    CONFLICT = "conflict"  # this id was given to another body; nothing was changed


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer goes."""

    topic: str
    correlation: bytes = b""
    acks: bool = False  # it stays in the outbox until the receiver says that it has it
    expires_in: float | None = None  # seconds from now; None: as long as results are kept


@dataclass(frozen=True, slots=True)
class Prompt:
    """A claimed inbox row: a prompt, or with a `model` tensors for it."""

    seq: int
    sender: str
    id: str
    body: bytes
    received_at: float  # node time
    runs: int  # this one included
    lives: int
    attempts: int  # this one included; never used twice once a token of it may be out
    model: str | None = None  # that its tensors are for; None: it is a prompt, and its body may name one
    header_length: int | None = None  # bytes of JSON in the body, where raw tensors follow

    @property
    def spent(self) -> bool:
        """It has ended too many Workers or agents: it must not run again."""
        return self.lives >= MAX_LIVES or self.runs > MAX_RUNS


@dataclass(frozen=True, slots=True)
class Parcel:
    """An outbox row with what to publish."""

    seq: int
    topic: str
    correlation: bytes
    payload: bytes
    header_length: int | None  # as in Prompt
    acks: bool


@dataclass(frozen=True, slots=True)
class Known:
    """An id whose receivers must not be disturbed: if it is in the inbox, a message goes `elsewhere`."""

    sender: str
    id: str
    elsewhere: str  # topic


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows a purge took: results past their time, and messages that no receiver took in time."""

    results: int
    undelivered: int
