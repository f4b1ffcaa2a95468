"""What a door may ask of the node, whoever wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from agent.access import Access
    from agent.canaries import Trial
    from agent.config import Settings
    from agent.serving import Serving
    from agent.telemetry import Telemetry
    from models.manifest import Manifest
    from models.shelf import Shelf


class Node(Protocol):
    @property
    def settings(self) -> Settings: ...
    @property
    def serving(self) -> Serving: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def shelf(self) -> Shelf: ...
    @property
    def access(self) -> Access:
        """Who may enter by HTTP and gRPC."""

    @property
    def doors(self) -> dict[str, str]:
        """By name: what a door says of itself, for `/status`."""

    @property
    def listening(self) -> asyncio.Event:
        """To be set once HTTP is answered."""

    def status(self) -> dict[str, Any]:
        """For `/status`: no secret in it."""

    def pull(
        self, source: str, name: str | None, *, quantize: bool, trial: Trial | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Rows of progress, then the Version. Raises AgentError and ModelError."""

    async def load(self, name: str) -> None:
        """Load `model` or `model:version` now. ModelError where it cannot be."""

    async def unload(self, name: str) -> None:
        """Free a Model's memory. NotOnShelf."""

    async def remove(self, name: str) -> list[Manifest]:
        """Take `model` or `model:version` off the shelf: what went. NotOnShelf; Conflict: it is served."""

    async def begin_trial(self, name: str, trial: Trial) -> None:
        """Let `model:version` have a part of the traffic. BadRequest, NotOnShelf, ModelError, OSError."""

    async def promote(self, name: str) -> str:
        """A canary becomes the stable Version: which. Raises as `begin_trial` does."""

    async def abort(self, name: str) -> list[str]:
        """Canaries go: which. Raises as `begin_trial` does."""
