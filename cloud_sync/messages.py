"""What node and controller say to each other, both ways: JSON by `/api/v1`.

A field that the other side does not know is ignored, so that a node one release older or newer works.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

API = "/api/v1"
NAME = r"^[A-Za-z0-9._-]{1,64}$"
LABEL = r"^[A-Za-z0-9._/-]{1,64}$"
MOST_PEM = 16 * 1024  # bytes
MOST_MODELS = 200  # that a report names

NodeName = Annotated[str, StringConstraints(pattern=NAME)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
Pem = Annotated[str, Field(max_length=MOST_PEM)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=1000)]


class Join(BaseModel):
    """A machine wants to be a node. The same key may ask again: an answer may have been lost."""

    token: Annotated[str, Field(max_length=200)]
    csr: Pem
    name: NodeName
    labels: Labels = {}


class Joined(BaseModel):
    name: NodeName
    certificate: str
    """PEM, the node's own first."""


class Renew(BaseModel):
    """A new key for the holder of the old one, whose certificate may be over."""

    certificate: Pem
    csr: Pem
    proof: Annotated[str, Field(max_length=1024)]
    """The old key's signature of the request, base64; see `identity.prove`."""


class Renewed(BaseModel):
    certificate: str


class Item(BaseModel):
    """What became of one setting, or one Model, of the Desired document."""

    state: Annotated[str, Field(max_length=32)]
    """applied, pending, needs_restart, overridden, failed, rolled_back; what else a newer release says."""
    reason: Text = ""


class ModelReport(BaseModel):
    name: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=200)]
    state: Annotated[str, Field(max_length=64)]


class Report(BaseModel):
    """The Reported document, and with it the heartbeat."""

    boot: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{8,64}$")]
    """Random for each start of the agent: an earlier one that speaks again is another machine's."""
    number: Count
    """Of this boot's reports; it grows."""
    version: Annotated[str, Field(max_length=64)]
    """Of the agent."""
    uptime_s: Annotated[float, Field(ge=0)] = 0.0
    epoch: Count = 0
    generation: Count = 0
    """Of the Desired that is kept here; 0: none yet."""
    observed_generation: Count = 0
    """Of the Desired that is in force, or was taken back: `items` tells."""
    items: Annotated[dict[str, Item], Field(max_length=500)] = {}
    ready: bool = False
    reason: Text = ""
    models: Annotated[list[ModelReport], Field(max_length=MOST_MODELS)] = []
    backlog: Annotated[dict[str, Count], Field(max_length=100)] = {}
    """Rows of telemetry that wait here, by stream."""
    damaged: Annotated[list[Text], Field(max_length=100)] = []
    """Files that were found damaged and are set aside, until somebody takes them away."""


class Answer(BaseModel):
    """To a report."""

    epoch: int
    generation: int
    """Of the Desired that is there to be fetched."""
    heartbeat_s: float
    """When the next report is expected."""
    now: float | None = None
    """Wall time of the controller, in seconds: the lives of certificates are measured by it."""


class Desired(BaseModel):
    epoch: int
    generation: int
    settings: dict[str, Any]
    heartbeat_s: float = 300.0

    @property
    def etag(self) -> str:
        return f'"{self.epoch}.{self.generation}"'


Stream = Literal["events", "metrics", "logs", "samples"]
"""Of telemetry, the most valuable first."""


class Row(BaseModel):
    """One piece of telemetry; with `first` it stands for all from there to `seq`, which were given up."""

    seq: Annotated[int, Field(ge=1, le=2**53)]
    first: Annotated[int, Field(ge=1, le=2**53)] | None = None
    at: float
    """Wall time of the node, in seconds."""
    kind: Annotated[str, Field(max_length=64)]
    """events: the event's name. metrics: minute, hour. logs: the level. samples: prompt. Of any: gap."""
    body: dict[str, Any] = {}
    """metrics: `{"period_s": 60, "series": {'name{label="v"}': [count, sum, min, max, last]}}`; the period
    begins at `at`."""


class Telemetry(BaseModel):
    """A batch: of each stream the oldest rows that the controller has not said to have, in order."""

    database: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{8,64}$")]
    """Random for each file of the node's telemetry: `seq` begins again with another."""
    sent_at: float
    """Wall time of the node, in seconds."""
    streams: dict[Stream, Annotated[list[Row], Field(max_length=2000)]]


class Received(BaseModel):
    """To a batch, after its commit."""

    received: dict[Stream, Count]
    """The highest `seq` of each stream that is here with all before it: the node may delete up to it."""


class Problem(BaseModel):
    """Every error of the controller."""

    code: str
    message: str
