"""What the node was told to be, and what it is: decisions alone, no I/O.

    heard --> on trial --passed--> good
                 |
                 '--failed, or begun too often--> the last good one again

`active` is in force. A document on trial survives the agent's restarts, each of which is counted before
anything of it is applied, so that one that kills the agent is gone after ATTEMPTS.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from cloud_sync.messages import Desired, Item
from cloud_sync.settings import changed

ATTEMPTS = 2
WAITS = frozenset({"pending", "needs_restart"})  # states of what is not in force yet


class Trial(BaseModel):
    attempts: int = 0
    """Starts of the agent with it, each counted before it is tried."""
    watch: list[str] = []
    """What of the agent must be well for it to pass: what was just before, and may suffer from it."""


class Twin(BaseModel):
    newest: Desired | None = None
    """That was heard, whatever became of it."""
    active: Desired | None = None
    good: Desired | None = None
    trial: Trial | None = None
    observed: int = 0
    """The newest generation that is in force, or was taken back: `items` tells."""
    items: dict[str, Item] = {}
    untold: str = ""
    """Why a document was taken back, until that is among the events."""

    @property
    def settings(self) -> dict[str, Any]:
        """In force."""
        return self.active.settings if self.active else {}

    def heard(self, desired: Desired, watch: list[str]) -> Twin | None:
        """With this document on trial; None: it is no newer one."""
        if self.newest and (desired.epoch, desired.generation) <= (self.newest.epoch, self.newest.generation):
            return None
        same = self.newest is not None and self.newest.epoch == desired.epoch
        observed = self.observed if same else 0  # generations of another epoch say nothing of this one
        heard = {"newest": desired, "active": desired, "trial": Trial(watch=watch), "observed": observed}
        return self.model_copy(update=heard)

    def started(self) -> Twin:
        """The agent starts."""
        if self.trial is None:
            return self
        if self.trial.attempts >= ATTEMPTS:
            return self.failed(f"the agent started {ATTEMPTS} times with it and did not become well")
        return self.model_copy(
            update={"trial": self.trial.model_copy(update={"attempts": self.trial.attempts + 1})}
        )

    def applied(self, items: dict[str, Item]) -> Twin:
        """What became of each setting of the active document; one that is not in force yet is not observed.

        After a failure `active` is not the newest, and what was taken back stays told.
        """
        if self.newest is None or self.active != self.newest:
            back = {name: item for name, item in self.items.items() if item.state == "rolled_back"}
            return self.model_copy(update={"items": {**items, **back}})
        whole = not any(item.state in WAITS for item in items.values())
        observed = self.newest.generation if whole else self.observed
        return self.model_copy(update={"items": items, "observed": observed})

    def passed(self) -> Twin:
        return self.model_copy(update={"good": self.active, "trial": None})

    def failed(self, reason: str) -> Twin:
        """The last good one is active again."""
        good = self.good.settings if self.good else {}
        back = Item(state="rolled_back", reason=reason[:1000])
        items = self.items | dict.fromkeys(changed(good, self.settings), back)
        observed = self.newest.generation if self.newest else 0
        told = {"items": items, "observed": observed, "untold": reason[:1000]}
        return self.model_copy(update={"active": self.good, "trial": None, **told})
