"""One way in for all doors: from a Model's name to its lane."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.embedding import Embedding, EmbeddingTicket, OfTensors, OfTexts, pipeline_of
from agent.errors import AgentError, BadRequest, ModelNotFound, Unavailable
from agent.job import TextTicket
from agent.offered import Offered
from agent.request import Request
from agent.supervisor import State
from agent.telemetry import Telemetry
from agent.tensor import Inference
from agent.tensor_lane import TensorLane, TensorTicket
from agent.text_lane import TextLane

Lane = TextLane | TensorLane

NAMED = 8  # Models that an error message lists


class Serving:
    """`submit` and what they may ask for the doors; `open`, `close` and the like for the node."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._lanes: dict[str, Lane] = {}  # by Model
        self._default: Lane | None = None  # where no Model is named
        self._held = "no model is loaded yet"  # why there is no default
        self._closed = False

    # What doors call.

    def submit(self, request: Request) -> TextTicket:
        """Take a Request in.

        Raises ModelNotFound, BadRequest, Unavailable or Overloaded at once; the Ticket raises the rest.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: list[Request]) -> list[TextTicket]:
        """Take in the Requests of one body, all of one Model, all or none. Raises as `submit` does."""
        try:
            return self._admit(requests)
        except AgentError as error:
            self._telemetry.refused.labels(code=error.code).inc()
            raise

    def infer(self, asked: Inference) -> TensorTicket:
        """Take an Inference in. Raises as `submit` does."""
        try:
            lane = self._lane(asked.model, [asked.id])
            if isinstance(lane, TextLane):
                says = f"{lane.model.name} generates text: ask it by /v1/chat/completions or /v1/completions"
                raise BadRequest(says)
            return lane.infer(asked)
        except AgentError as error:
            self._telemetry.refused.labels(code=error.code).inc()
            raise

    def embed(self, asked: Embedding) -> EmbeddingTicket:
        """Take an Embedding in. Raises as `submit` does."""
        lane = self._find(asked.model)
        if not isinstance(lane, TensorLane):
            return OfTexts(self.submit_all(asked.requests()))
        pipeline = pipeline_of(lane.model)
        return OfTensors(self.infer(asked.inference()), pipeline)

    def offered(self) -> list[Offered]:
        """What can be asked, loaded or not; the default first."""
        lanes = sorted(self._lanes.values(), key=lambda lane: (lane is not self._default, lane.model.name))
        return [lane.model for lane in lanes]

    def find(self, name: str) -> Offered | None:
        """The Model that answers to this name; "" is the default."""
        lane = self._find(name)
        return lane.model if lane else None

    def ready(self, name: str = "") -> tuple[bool, str]:
        """Whether a Model, the default unless named, would answer now, and why not."""
        lane = self._find(name)
        return lane.ready() if lane else (False, self._held)

    def status(self) -> dict[str, Any]:
        """For `/status`: sums over all Models, each of them, and the default's Worker."""
        told = [(lane, lane.status()) for lane in self._lanes.values()]
        nobody = {"state": State.STOPPED, "sequences": {"running": 0, "waiting": 0}, "kv_used": 0.0}
        return {
            "queue": {
                "requests": sum(one["queue"]["requests"] for _, one in told),
                "tokens": sum(one["queue"]["tokens"] for _, one in told),
            },
            "running": sum(one["running"] for _, one in told),
            "worker": next((one["worker"] for lane, one in told if lane is self._default), nobody),
            "models": [
                {**lane.model.public(), "default": lane is self._default, **one}
                for lane, one in sorted(told, key=lambda pair: pair[0] is not self._default)
            ],
        }

    # What the node calls.

    def open(self, lane: Lane) -> None:
        """Offer another Model."""
        self._lanes[lane.model.name] = lane

    def shut(self, lane: Lane) -> None:
        """Offer it no longer."""
        del self._lanes[lane.model.name]
        lane.abandon(Unavailable("the model was taken away", retry_after=5))
        if lane is self._default:
            self._default, self._held = None, "the default model was removed"

    def prefer(self, lane: Lane) -> None:
        """Let this Model be the default."""
        self._default = lane

    def hold(self, why: str) -> None:
        """Why there is no default yet."""
        self._held = why

    def close(self) -> None:
        """Take nothing in any more."""
        self._closed = True

    def abandon(self) -> None:
        """The agent ends: whoever still waits is told."""
        for lane in self._lanes.values():
            lane.abandon(Unavailable("the agent is stopping", retry_after=5))

    async def drain(self, seconds: float) -> None:
        """Wait, so long at most, until no Worker has a Request."""
        await asyncio.gather(*(lane.drain(seconds) for lane in self._lanes.values()))

    def _admit(self, requests: list[Request]) -> list[TextTicket]:
        lane = self._lane(requests[0].model, [request.id for request in requests])
        if isinstance(lane, TensorLane):
            name = lane.model.name
            raise BadRequest(
                f"{name} does not generate text: ask it by /v2/models/{name}/infer", param="model"
            )
        return lane.admit(requests)

    def _lane(self, name: str, ids: list[str]) -> Lane:
        """That of a Model, for Requests with these ids."""
        if self._closed:
            raise Unavailable("the agent is stopping", retry_after=5)
        lane = self._find(name)
        if lane is None:
            raise self._unknown(name) if name else Unavailable(self._held, retry_after=5)
        for id in ids:
            if any(one.has(id) for one in self._lanes.values()):
                raise BadRequest(f"a request with id {id!r} is running", param="id")
        return lane

    def _find(self, name: str) -> Lane | None:
        if not name:
            return self._default
        return next((lane for lane in self._lanes.values() if lane.model.answers_to(name)), None)

    def _unknown(self, name: str) -> AgentError:
        if self._default is None:  # it may be the one that is still to come
            return Unavailable(self._held, retry_after=5)
        names = [repr(model.name) for model in self.offered()]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = f"{', '.join(names[:NAMED])}{more}"
        return ModelNotFound(
            f"the model {name!r} is not on this node, which has {listed} (autoglm pull brings others)",
            param="model",
        )
