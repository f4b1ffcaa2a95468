"""The topics of one node, and which Response Topics it refuses. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.errors import BadRequest

ROOT = "autoglm/v1"
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)  # of ids and senders
_MODEL = re.compile(rf"{NAME.pattern}(:{NAME.pattern})?", re.ASCII)  # with its Version, or without
_INPUTS = {"prompts", "infer", "acks"}


@dataclass(frozen=True, slots=True)
class Input:
    """What an input's topic says."""

    kind: str  # "prompts", "infer" or "acks"
    sender: str  # "" where it names none
    model: str | None = None  # of "infer": `model` or `model:version`


@dataclass(frozen=True, slots=True)
class Topics:
    """Everything under `autoglm/v1/{node}/`. A sender is the last level of an input, or "" without one."""

    node: str

    @property
    def inputs(self) -> list[str]:
        """The filters to subscribe to."""
        kinds = [("prompts",), ("infer", "+"), ("acks",)]
        return [self._(*kind, *sender) for kind in kinds for sender in ((), ("+",))]

    @property
    def acks(self) -> str:
        return self._("acks")

    @property
    def status(self) -> str:
        return self._("status")

    @property
    def errors(self) -> str:
        return self._("errors")

    def result(self, sender: str, id: str) -> str:
        return self._("results", sender, id)

    def tokens(self, sender: str, id: str) -> str:
        return self._("tokens", sender, id)

    def read(self, topic: str) -> Input:
        """Of a topic that one of `inputs` matches. Raises BadRequest where a level is no name."""
        kind, _, rest = topic.removeprefix(self._() + "/").partition("/")
        model = None
        if kind == "infer":
            model, _, rest = rest.partition("/")
            if not _MODEL.fullmatch(model):
                raise BadRequest("the topic level after infer must be a model, or model:version")
        if rest and not NAME.fullmatch(rest):
            raise BadRequest("the sender's topic level must match [A-Za-z0-9._-]{1,128}")
        return Input(kind, rest, model)

    def _(self, *levels: str) -> str:
        return "/".join((ROOT, self.node, *(level for level in levels if level)))


def check_response_topic(topic: str) -> None:
    """Raises BadRequest for a topic that no answer may go to: none could, or it would be read as input."""
    if "+" in topic or "#" in topic:
        raise BadRequest("the Response Topic has a wildcard")
    if topic.startswith("$"):
        raise BadRequest("the Response Topic is under $, which is the broker's")
    if "\0" in topic:
        raise BadRequest("the Response Topic has a null character")
    levels = topic.split("/")
    if levels[:2] == ROOT.split("/") and len(levels) > 3 and levels[3] in _INPUTS | {"status"}:
        raise BadRequest("the Response Topic is one of a node's own topics")
