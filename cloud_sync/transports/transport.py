"""What the link needs of a way to the controller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from cloud_sync.messages import Answer, Desired, Received, Renew, Renewed, Report


class LinkError(Exception):
    """The controller is away, or cannot answer now: try again later."""


class Rejected(Exception):
    """The controller heard, and refuses. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Hint(NamedTuple):
    """Of the Desired document that is there."""

    epoch: int
    generation: int


class Transport(Protocol):
    """Every call raises LinkError or Rejected."""

    async def report(self, report: Report) -> Answer: ...

    async def desired(self, known: Desired | None) -> Desired | None:
        """None: what is known is the newest."""

    def hints(self) -> AsyncIterator[Hint | None]:
        """What is there to be fetched, as the controller tells of it. Begins with None: it listens."""

    async def renew(self, asked: Renew) -> Renewed: ...

    async def telemetry(self, batch: bytes) -> Received:
        """`batch`: Telemetry as JSON, by zstd. Rejected: `too_large`, `invalid`."""

    async def close(self) -> None: ...
