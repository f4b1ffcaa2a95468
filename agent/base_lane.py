"""What lanes of text and of tensors share: their Version, its Worker, and whether it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from agent.config import Settings
from agent.errors import Unavailable
from agent.job import LIVES
from agent.limits import Limits
from agent.offered import Offered
from agent.supervisor import State, Supervisor
from agent.telemetry import ModelTelemetry

log = structlog.get_logger()


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
        self.embeds = False  # whether its Worker has made vectors of texts, and has the memory for that
        self._held = ""  # why the queue waits, where it does
        self._trouble = ""  # why its Worker, well as it is, can answer nothing

    def ready(self) -> tuple[bool, str]:
        """Whether a Request would be answered now, and why not."""
        if self._supervisor is None:
            return False, self._held or "the model is not loaded"
        if self._supervisor.state is not State.READY:
            return False, self._supervisor.reason
        why = self._held or self._trouble
        return not why, why

    def _heard(self, trouble: str) -> None:
        """Of the Worker's latest news."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._telemetry.ready(self, not trouble)
            log.warning("a remote model's server", model=self.model.name, says=trouble or "is back")

    def attach(self, supervisor: Supervisor) -> None:
        """From now on this Worker serves."""
        self._supervisor = supervisor

    def _check_health(self) -> None:
        one = self._supervisor
        lives = 1 if self.model.remote else LIVES  # another server's return is not waited for
        if one and one.state is State.BACKOFF and one.deaths >= lives:
            raise Unavailable(f"the model does not stay up: {one.reason}", retry_after=10)

    def _status(
        self, requests: int, tokens: float, running: int, sequences: dict[str, int], kv: float
    ) -> dict[str, Any]:
        """For `/status`."""
        supervisor: dict[str, Any] = (
            self._supervisor.status() if self._supervisor else {"state": State.STOPPED}
        )
        if self._trouble:
            supervisor["reason"] = self._trouble
        return {
            "queue": {"requests": requests, "tokens": round(tokens)},
            "running": running,
            "worker": {**supervisor, "sequences": sequences, "kv_used": round(kv, 4)},
        }
