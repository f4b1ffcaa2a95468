"""What is pulled while the agent runs: put on the shelf, then offered, loaded or tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from agent.canaries import Trial
from agent.config import Settings
from agent.pulls import started
from agent.residents import Residents
from models.shelf import Shelf


class Arrivals:
    def __init__(self, settings: Settings, shelf: Shelf, residents: Residents) -> None:
        self._settings = settings
        self._shelf = shelf
        self._residents = residents

    async def pull(
        self, source: str, name: str | None, quantize: bool, trial: Trial | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Rows of progress, then what was pulled. A loaded Model changes to it, or tries it.

        Raises AgentError and ModelError.
        """
        if trial:
            await self._residents.canaries.guard(name or "")
        try:
            async with aclosing(self._pull(source, name, quantize, trial)) as rows:
                async for row in rows:
                    yield row
        finally:
            if trial:
                await self._residents.canaries.unguard(name or "")

    async def _pull(
        self, source: str, name: str | None, quantize: bool, trial: Trial | None
    ) -> AsyncGenerator[dict[str, Any]]:
        task, rows = started(source, name, self._shelf, self._settings if quantize else None)
        try:
            while (progress := await rows.get()) is not None:
                yield {"phase": progress.phase, "done": progress.done, "total": progress.total}
            version, decision = await task
        finally:
            task.cancel()
            await asyncio.wait({task})
        load = trial is None and self._residents.wants(version)
        if load or trial:
            yield {"phase": "load", "done": 0, "total": None}
        if trial:
            await self._residents.canaries.begin(f"{version.model}:{version.version}", trial)
        elif load:
            await self._residents.load(version)
        else:
            await self._residents.offer(version)
        told = {"model": version.model, "version": version.version, "path": str(version.path)}
        yield told | ({"quantized": decision} if decision else {})
