"""What lanes of text and of tensors share: their Version, its Worker, and whether it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.config import Settings
from agent.errors import Unavailable
from agent.job import LIVES
from agent.limits import Limits
from agent.offered import Offered
from agent.supervisor import State, Supervisor
from agent.telemetry import ModelTelemetry


class BaseLane:
    """`on_use` is told of each Request that comes in, and its keep_alive: it may need a Worker started.

    `elsewhere` tells which lane can take what this one's Worker cannot go on with.
    """

    def __init__(
        self,
        model: Offered,
        settings: Settings,
        telemetry: ModelTelemetry,
        limits: Limits,
        on_use: Callable[[Any, float | None], None],
        elsewhere: Callable[[Any], Any],
    ) -> None:
        self.model = model
        self._elsewhere = elsewhere
        self._settings = settings
        self._telemetry = telemetry
        self._limits = limits
        self._on_use = on_use
        self._supervisor: Supervisor | None = None
        self._held = ""  # why the queue waits, where it does

    def ready(self) -> tuple[bool, str]:
        """Whether a Request would be answered now, and why not."""
        if self._supervisor is None:
            return False, self._held or "the model is not loaded"
        if self._supervisor.state is not State.READY:
            return False, self._supervisor.reason
        return not self._held, self._held

    def attach(self, supervisor: Supervisor) -> None:
        """From now on this Worker serves."""
        self._supervisor = supervisor

    def _check_health(self) -> None:
        one = self._supervisor
        if one and one.state is State.BACKOFF and one.deaths >= LIVES:
            raise Unavailable(f"the model does not stay up: {one.reason}", retry_after=10)

    def _status(
        self, requests: int, tokens: float, running: int, sequences: dict[str, int], kv: float
    ) -> dict[str, Any]:
        """For `/status`."""
        supervisor = self._supervisor.status() if self._supervisor else {"state": State.STOPPED}
        return {
            "queue": {"requests": requests, "tokens": round(tokens)},
            "running": running,
            "worker": {**supervisor, "sequences": sequences, "kv_used": round(kv, 4)},
        }
