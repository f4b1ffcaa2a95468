"""The nouns of one embedding, Embedding and Embedded, and how a lane of either kind is asked for it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agent.errors import BadRequest, PromptTooLong, Unavailable
from agent.job import TextTicket
from agent.offered import Offered
from agent.request import Prompt, Request
from agent.tensor import Inference, Outputs, Tensor
from agent.ticket import Ticket
from agent.vector import unit
from models.pipelines.table import TextEmbedding

TOGETHER = 8  # more, and long texts would hold a Worker for so long that it seems to hang
IDS = b"\xff"  # what an element begins with that holds token ids: see engines/text_embedding.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What is asked: a vector for each input. Made by a door."""

    id: str  # unique in this agent
    model: str = ""  # "" is the node's default
    inputs: tuple[Prompt, ...]
    together: int = TOGETHER  # inputs that a Model of tensors gets at once
    priority: int | None = None  # 0 to 9, 9 is served first; None: as the settings say
    deadline: float | None = None  # on the monotonic clock, seconds
    sender: str = ""
    session: str = ""  # who keeps the Version that answered; "" is nobody
    keep_alive: float | None = None  # seconds that the Model stays loaded after it; negative: for ever

    @property
    def first(self) -> str:
        """The id of what comes first of it."""
        return f"{self.id}-0"

    def requests(self, *, remote: bool) -> list[Request]:
        """For a Model of text: one for each input; of a remote one, whose server gets them at once, one."""
        whole = Request(
            id=self.first,
            model=self.model,
            texts=self.inputs,
            embed=True,
            max_tokens=0,
            priority=self.priority,
            deadline=self.deadline,
            sender=self.sender,
            session=self.session,
            keep_alive=self.keep_alive,
        )
        if remote:
            return [whole]
        return [
            replace(whole, id=f"{self.id}-{at}", prompt=one, texts=()) for at, one in enumerate(self.inputs)
        ]

    def inferences(self) -> list[Inference]:
        """For a Model of tensors with a pipeline: one for each few inputs, all for the same Version."""
        parts = range(0, len(self.inputs), self.together)
        return [self._inference(at, self.inputs[at : at + self.together]) for at in parts]

    def _inference(self, at: int, inputs: Sequence[Prompt]) -> Inference:
        elements = [one.encode() if isinstance(one, str) else IDS + _ids(one) for one in inputs]
        data = b"".join(len(one).to_bytes(4, "little") + one for one in elements)
        return Inference(
            id=f"{self.id}-{at}",
            model=self.model,
            inputs=(Tensor("text", "BYTES", (len(elements),), data),),
            outputs=("embedding", "tokens"),
            further=at > 0,
            priority=self.priority,
            deadline=self.deadline,
            sender=self.sender,
            session=self.session or self.id,
            keep_alive=self.keep_alive,
        )


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer: of each input the vector, of length 1, FP32 and little endian; and the tokens of all."""

    vectors: tuple[bytes, ...]
    tokens: int


class EmbeddingTicket(Protocol):
    async def only(self) -> Embedded:
        """The answer. Raises the AgentError that ended it."""

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OfTexts:
    """The Tickets of a Model of text. Whoever is told of an error cancels the others."""

    tickets: Sequence[TextTicket]

    async def only(self) -> Embedded:
        chunks = [await ticket.only() for ticket in self.tickets]
        if len({ticket.version for ticket in self.tickets}) > 1:  # their vectors cannot be compared
            raise Unavailable("another version of the model took over meanwhile", retry_after=1)
        tokens = sum(chunk.usage.prompt_tokens for chunk in chunks if chunk.usage)
        vectors: list[bytes] = []
        for chunk, ticket in zip(chunks, self.tickets, strict=True):
            vectors += split(chunk.vector, len(ticket.request.texts) or 1)
        return Embedded(tuple(vectors), tokens)

    def cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()


@dataclass(frozen=True, slots=True)
class OfTensors:
    """The Tickets of a Model of tensors. Whoever is told of an error cancels the others."""

    tickets: Sequence[Ticket[Inference, Outputs]]
    pipeline: TextEmbedding

    async def only(self) -> Embedded:
        vectors: list[bytes] = []
        tokens = 0
        for ticket in self.tickets:
            made, counted = (await ticket.only()).tensors
            counts = array("q", counted.data)
            self._check(counts, len(vectors))
            parts = split(bytes(made.data), len(counts))
            vectors += parts if self.pipeline.normalise else map(unit, parts)
            tokens += sum(counts)
        return Embedded(tuple(vectors), tokens)

    def _check(self, counts: Sequence[int], first: int) -> None:
        for at, count in enumerate(counts, first):
            if count > self.pipeline.max_tokens:
                says = f"input {at} has {count} tokens, and this model takes {self.pipeline.max_tokens}"
                raise PromptTooLong(says, param="input")

    def cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()


def pipeline_of(model: Offered) -> TextEmbedding:
    """Raises BadRequest."""
    if not isinstance(model.pipeline, TextEmbedding):
        raise BadRequest(
            f"{model.name} makes no embeddings: ask it by /v2/models/{model.name}/infer", param="model"
        )
    return model.pipeline


def split(vectors: bytes, count: int) -> list[bytes]:
    """So many vectors that lie one behind the other."""
    size = len(vectors) // count
    return [vectors[at : at + size] for at in range(0, len(vectors), size)]


def _ids(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)
