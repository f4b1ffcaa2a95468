"""What the link asks of the agent around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from cloud_sync.messages import Item, ModelReport


@dataclass(frozen=True, slots=True)
class Facts:
    version: str  # of the agent
    uptime_s: float
    models: list[ModelReport] = field(default_factory=list)


class Host(Protocol):
    def ready(self) -> tuple[bool, str]:
        """Whether it is, and why not. Asked often."""

    def facts(self) -> Facts:
        """For a report."""

    def happened(self, kind: str, **body: Any) -> None:
        """To be told to the controller, whenever it is there. Returns at once."""

    async def apply(self, settings: dict[str, Any]) -> dict[str, Item]:
        """Take the settings into force that can be without a restart: what became of each."""

    def restart(self) -> None:
        """Soon, at a quiet moment; returns at once."""
