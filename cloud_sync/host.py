"""What the link asks of the agent around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloud_sync.messages import Item, ModelReport


@dataclass(frozen=True, slots=True)
class Facts:
    version: str  # of the agent
    uptime_s: float
    models: list[ModelReport] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Address:
    url: str | None = None  # None: where this machine joined
    proxy: str | None = None  # None: as the environment says; "none"


class Host(Protocol):
    def ready(self) -> tuple[bool, str]:
        """Whether it is, and why not. Asked often."""

    def facts(self) -> Facts:
        """For a report."""

    def happened(self, kind: str, **body: Any) -> None:
        """To be told to the controller, whenever it is there. Returns at once."""

    def address(self) -> Address:
        """What the settings say of the way to the controller."""

    def watched(self, names: set[str]) -> list[str]:
        """The parts of the agent that are well now, and may suffer from changes of these settings."""

    def trouble(self, part: str) -> str:
        """Why that part is not well; "" where it is. Asked often."""

    def trial_s(self) -> float:
        """Within which all that was well must be again."""

    def apply(self, settings: dict[str, Any]) -> AsyncIterator[dict[str, Item]]:
        """Take the settings into force: what has become of each so far; the last one counts.

        It may be given up in between, and begun again with others.
        """

    def restart(self) -> None:
        """Soon, at a quiet moment; returns at once."""
