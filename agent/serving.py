"""One way in for all doors: from a Model's name to its lane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

from agent.embedding import Embedding, EmbeddingTicket, OfTensors, OfTexts, pipeline_of
from agent.errors import AgentError, BadRequest, ModelNotFound, Unavailable
from agent.job import TextTicket, prompt_text
from agent.offered import Offered
from agent.request import Request
from agent.route import Lane, Live, Route
from agent.shadow import Shadow
from agent.statistics import Statistics
from agent.supervisor import State
from agent.telemetry import Telemetry
from agent.tensor import Inference
from agent.tensor_lane import TensorLane, TensorTicket
from agent.text_lane import TextLane

NAMED = 8  # Models that an error message lists


class Serving:
    """`submit` and what they may ask for the doors; `open`, `close` and the like for the node."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._routes: dict[str, Route] = {}  # by Model
        self._default: Route | None = None  # where no Model is named
        self._held = "no model is loaded yet"  # why there is no default
        self._closed = False
        self.shadow = Shadow(telemetry, self.busy)
        self.whole = False  # all that is on the shelf is offered

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
            route = self._route(asked.model, [asked.id])
            lane = self._lane(route, asked.model, asked.session or asked.id)
            if isinstance(lane, TextLane):
                says = f"{lane.model.name} generates text: ask it by /v1/chat/completions or /v1/completions"
                raise BadRequest(says)
            ticket = lane.infer(asked)
            self.shadow.follow(route, ticket)
            return ticket
        except AgentError as error:
            self._telemetry.refused.labels(code=error.code).inc()
            raise

    def embed(self, asked: Embedding) -> EmbeddingTicket:
        """Take an Embedding in. Raises as `submit` does."""
        model = self.find(asked.model)
        if model is None or not model.makes_tensors:
            return OfTexts(self.submit_all(asked.requests(remote=self._is_remote(asked))))
        pipeline_of(model)  # whether it has one
        tickets: list[TensorTicket] = []
        try:
            for one in asked.inferences():
                tickets.append(self.infer(one))
            answering = self.find(f"{tickets[0].model}:{tickets[0].version}")
            return OfTensors(tickets, pipeline_of(answering or model))
        except AgentError:
            for ticket in tickets:
                ticket.cancel()
            raise

    def offered(self) -> list[Offered]:
        """What can be asked by a Model's name, loaded or not; the default first."""
        return [route.model for route in self._sorted()]

    def live(self, model: str) -> list[Offered]:
        """The Versions of a Model among which its traffic is shared; the stable one first."""
        route = self._routes.get(model)
        return [one.model for one in route.live] if route else []

    def find(self, name: str) -> Offered | None:
        """What answers to `model` or `model:version`; "" is the default."""
        live = self._find(name)
        return live.model if live else None

    def ready(self, name: str = "") -> tuple[bool, str]:
        """Whether a Model, the default unless named, would answer now, and why not."""
        live = self._find(name)
        return live.ready() if live else (False, self._held)

    def statistics(self, name: str) -> list[Statistics]:
        """What the live Versions of a Model of tensors, or the one that is named, have done."""
        route = self._routes.get(name.partition(":")[0])
        live = route.live if route and ":" not in name else [self._find(name)]
        lanes = [one.lanes[0] for one in live if one]
        return [lane.statistics for lane in lanes if isinstance(lane, TensorLane)]

    def status(self) -> dict[str, Any]:
        """For `/status`: sums over all Models, a row for each of their Workers, and the default's Worker."""
        routes = self._sorted()
        told = {lane: lane.status() for route in routes for lane in route.lanes()}
        nobody = {"state": State.STOPPED, "sequences": {"running": 0, "waiting": 0}, "kv_used": 0.0}
        first = told[self._default.stable.lanes[0]]["worker"] if self._default else nobody
        return {
            "queue": {
                "requests": sum(one["queue"]["requests"] for one in told.values()),
                "tokens": sum(one["queue"]["tokens"] for one in told.values()),
            },
            "running": sum(one["running"] for one in told.values()),
            "worker": first,
            "models": [
                {**lane.model.public(), **_part(route, live, route is self._default), **told[lane]}
                for route in routes
                for live in route.live
                for lane in live.lanes
            ],
        }

    # What the node calls.

    def open(self, route: Route) -> None:
        """Offer another Model."""
        self._routes[route.model.name] = route

    def shut(self, route: Route) -> None:
        """Offer it no longer."""
        del self._routes[route.model.name]
        for lane in route.all_lanes():
            lane.abandon(Unavailable("the model was taken away", retry_after=5))
        if route is self._default:
            self._default, self._held = None, "the default model was removed"

    def prefer(self, route: Route) -> None:
        """Let this Model be the default."""
        self._default = route

    def hold(self, why: str) -> None:
        """Why there is no default yet."""
        self._held = why

    def close(self) -> None:
        """Take nothing in any more."""
        self._closed = True

    def abandon(self) -> None:
        """The agent ends: whoever still waits is told."""
        for lane in self._lanes():
            lane.abandon(Unavailable("the agent is stopping", retry_after=5))

    async def drain(self, seconds: float) -> None:
        """Wait, so long at most, until no Worker has a Request."""
        await asyncio.gather(*(lane.drain(seconds) for lane in self._lanes()))

    def busy(self) -> bool:
        """Whether anybody but shadows has something to do."""
        return any(
            lane.load
            for route in self._routes.values()
            for live in route.live
            if not live.shadow
            for lane in live.lanes
        )

    def _admit(self, requests: list[Request]) -> list[TextTicket]:
        first = requests[0]
        route = self._route(first.model, [request.id for request in requests])
        lane = self._lane(route, first.model, first.session or first.id)
        if isinstance(lane, TensorLane):
            name = lane.model.name
            raise BadRequest(
                f"{name} does not generate text: ask it by /v2/models/{name}/infer", param="model"
            )
        tickets = lane.admit(requests)
        for request in requests:
            if not request.embed:
                text = partial(prompt_text, request)
                self._telemetry.journal.prompt(lane.model.name, lane.model.version, text)
        if len(tickets) == 1:
            self.shadow.follow(route, tickets[0])
        return tickets

    def _route(self, name: str, ids: list[str]) -> Route:
        """That of a Model, for Requests with these ids."""
        if self._closed:
            raise Unavailable("the agent is stopping", retry_after=5)
        model, _, version = name.partition(":")
        route = self._routes.get(model) if name else self._default
        if route is None or route.find(version) is None:
            raise self._unknown(name) if name else Unavailable(self._held, retry_after=5)
        for id in ids:
            if any(one.has(id) for one in self._lanes()):
                raise BadRequest(f"a request with id {id!r} is running", param="id")
        return route

    def _lane(self, route: Route, name: str, session: str) -> Lane:
        """The Version that is named, else whichever is this session's."""
        version = name.partition(":")[2]
        live = route.find(version) if version else None
        return (live or route.choose(session)).lane()

    def _is_remote(self, asked: Embedding) -> bool:
        """Whether another server runs the Version that will answer it."""
        route = self._routes.get(asked.model.partition(":")[0]) if asked.model else self._default
        if route is None:
            return False
        return self._lane(route, asked.model, asked.session or asked.first).model.remote is not None

    def _find(self, name: str) -> Live | None:
        if not name:
            return self._default.stable if self._default else None
        model, _, version = name.partition(":")
        route = self._routes.get(model)
        return route.find(version) if route else None

    def _lanes(self) -> Iterator[Lane]:
        for route in self._routes.values():
            yield from route.all_lanes()

    def _sorted(self) -> list[Route]:
        return sorted(self._routes.values(), key=lambda route: (route is not self._default, route.model.name))

    def _unknown(self, name: str) -> AgentError:
        if self._default is None:  # it may be the one that is still to come
            return Unavailable(self._held, retry_after=5)
        if not self.whole:
            return Unavailable("the models on the shelf are being looked through", retry_after=1)
        names = [repr(model.name) for model in self.offered()]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = f"{', '.join(names[:NAMED])}{more}"
        return ModelNotFound(
            f"the model {name!r} is not on this node, which has {listed} (autoglm pull brings others)",
            param="model",
        )


def _part(route: Route, live: Live, default: bool) -> dict[str, Any]:
    """A live Version's part among those of its Model."""
    if live is route.stable:
        left = 100 - sum(canary.weight for canary in route.canaries)
        return {"default": default, "role": "stable", "weight": left}
    if live.shadow:
        return {"default": False, "role": "shadow", "weight": 0, "compared": dict(live.compared)}
    return {"default": False, "role": "canary", "weight": live.weight}
