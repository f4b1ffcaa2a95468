"""Makes the Workers of a Version, with the lanes that lead to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent.config import Settings
from agent.limits import Limits
from agent.offered import Offered
from agent.replica import Replica
from agent.route import Lane
from agent.serving import Serving
from agent.telemetry import Telemetry
from agent.templates import Templates
from agent.tensor_lane import TensorLane
from agent.text_lane import TextLane

Elsewhere = Callable[[Lane], Lane | None]


class Replicas:
    """`used` is told of each Request that comes in, and its keep_alive."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        telemetry: Telemetry,
        templates: Templates,
        used: Callable[[Lane, float | None], None],
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._telemetry = telemetry
        self._templates = templates
        self._used = used
        self._limits = Limits(settings)

    def make(self, offered: Offered, elsewhere: Elsewhere, tasks: asyncio.TaskGroup) -> Replica:
        """One more Worker of this Version; not started yet."""
        name, version = offered.name, offered.version
        telemetry = self._telemetry.model(name, version)
        common: Any = (self._limits, self._used, elsewhere)
        settings = self._settings.of(name)
        lane: Lane
        if offered.makes_tensors:
            lane = TensorLane(offered, settings, telemetry, *common)
        else:
            lane = TextLane(offered, settings, telemetry, self._templates, *common)
        return Replica(lane, settings, telemetry, tasks, lambda: self._retired(lane, name, version))

    def _retired(self, lane: Lane, model: str, version: str) -> None:
        """A Worker is gone for good; its Version's metrics go with the last of them."""
        self._telemetry.model(model, version).left(lane)
        if not any(one.version == version for one in self._serving.live(model)):
            self._telemetry.forget(model, version)
