"""Which of a Model's live Versions answers a caller, and by which of its Workers. Does no I/O.

The stable Version has what the canaries leave. Who was given a Version keeps it while that Version's weight
stays: the choice is a hash of the caller's session, and each canary has hashes of its own (see places.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent import places
from agent.offered import Offered
from agent.tensor_lane import TensorLane
from agent.text_lane import TextLane

Lane = TextLane | TensorLane


@dataclass(slots=True, eq=False)
class Live:
    """A live Version: a lane to each of its Workers, and its part of the Model's traffic."""

    lanes: list[Lane]
    weight: float = 0.0  # of a canary: percent, 0 to 100
    spans: list[places.Span] = field(default_factory=list)  # of a canary: the sessions that are its own
    shadow: bool = False  # a canary that answers copies, which nobody sees
    compared: Counter[str] = field(default_factory=Counter)  # what became of the copies

    @property
    def model(self) -> Offered:
        return next((lane.model for lane in self.lanes if lane.model.info), self.lanes[0].model)

    def ready(self) -> tuple[bool, str]:
        """Whether a Request would be answered now, and why not."""
        told = [lane.ready() for lane in self.lanes]
        return next((one for one in told if one[0]), told[0])

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return sum(lane.load for lane in self.lanes)

    def lane(self) -> Lane:
        """The ready one that has least to do, else any."""
        return min(self.lanes, key=lambda lane: (not lane.ready()[0], lane.load))


@dataclass(slots=True, eq=False)
class Route:
    """One Model."""

    stable: Live
    canaries: list[Live] = field(default_factory=list)
    retiring: list[Live] = field(default_factory=list)  # get nothing new, and end their answers

    @property
    def model(self) -> Offered:
        return self.stable.model

    @property
    def live(self) -> list[Live]:
        return [self.stable, *self.canaries]

    def lanes(self) -> Iterator[Lane]:
        """Of all that are live."""
        for one in self.live:
            yield from one.lanes

    def all_lanes(self) -> Iterator[Lane]:
        """Of those that end their answers too."""
        for one in (*self.live, *self.retiring):
            yield from one.lanes

    def find(self, version: str) -> Live | None:
        """That Version where it is live; "" is the stable one."""
        if not version:
            return self.stable
        return next((one for one in self.live if one.model.version == version), None)

    def choose(self, session: str) -> Live:
        """Whose turn it is with this caller. A canary that is not ready has no turns."""
        if not self.canaries:
            return self.stable
        at = places.place(self.model.name, session)
        canary = next((one for one in self.canaries if places.has(one.spans, at)), None)
        return canary if canary and canary.ready()[0] else self.stable

    def weigh(self, canary: Live, weight: float, had: Iterable[places.Span] = ()) -> None:
        """Give it a part of the sessions; `had`: those that it had before this agent started."""
        others = [span for one in self.canaries if one is not canary for span in one.spans]
        canary.weight, canary.spans = weight, places.resized(canary.spans or had, others, weight)

    def other(self, lost: Lane) -> Lane | None:
        """A ready lane that can take what this one cannot go on with: of its Version, else the stable one."""
        own = next((one for one in self.live if lost in one.lanes), self.stable)
        for live in (own, self.stable):
            others = [
                lane
                for lane in live.lanes
                if lane is not lost and type(lane) is type(lost) and lane.ready()[0]
            ]
            if others:
                return min(others, key=lambda lane: lane.load)
        return None
