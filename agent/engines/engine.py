"""What a Worker asks of an Engine: of one that generates text, or of one that makes tensors of tensors.

Plug-ins implement one of the two; see `llama.py`, `onnx.py` and docs/engines.md.

The scheduler owns *which* tokens go where; an Engine owns the tensors. A slot is a place in the KV cache,
numbered from 0.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from agent.request import Sampling, TokenLogprob
from models.onnx import TensorSpec


class EngineError(Exception):
    """The Engine cannot go on: it could not load, or a step failed. Costs the Worker its life."""


class CannotEmbed(EngineError):
    """There is no memory for vectors. Once loaded, the Engine goes on: it costs the texts alone."""


class Sampler(Protocol):
    """One Sequence's way of drawing tokens: its random state and what it has seen."""

    def accept(self, token: int) -> None: ...


@dataclass(slots=True)
class Piece:
    """Some of one Sequence's tokens in a Batch. With a sampler, a token is drawn after the last of them."""

    slot: int
    start: int  # position of tokens[0]
    tokens: Sequence[int]
    sampler: Sampler | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    token: int
    logprob: TokenLogprob | None = None


@dataclass(slots=True)
class EmbedPiece:
    """Some of a text's tokens, to make a vector of. Slots are the texts' in progress, apart from Pieces'."""

    slot: int
    start: int  # position of tokens[0]; at 0 the slot's former text is forgotten
    tokens: Sequence[int]
    last: bool  # they are the text's last: its vector is wanted


@dataclass(frozen=True, slots=True)
class EmbedInfo:
    """How an Engine makes vectors of texts. Counts are of tokens."""

    dimensions: int
    context: int  # of one text, at most
    slots: int  # texts in progress at once
    step: int  # of one step, at most, but for a `whole` text that is longer
    room: int  # of all texts in progress
    whole: bool  # a text cannot be cut into pieces
    pooling: str  # "mean", "cls", "last"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded Engine can do. `context` is in tokens, for each slot; sizes are in bytes."""

    engine: str
    slots: int
    context: int
    vocabulary: int
    device: str  # "cpu", "cuda"
    trims: bool = True  # whether part of a slot can be forgotten; recurrent models cannot
    generates: bool = True  # False: it makes vectors alone
    embedding: EmbedInfo | None = None  # None: it makes no vectors
    details: Mapping[str, Any] = field(default_factory=dict)  # for `status`: kv type, threads, ...


class Engine(Protocol):
    """A loaded Version. Every call comes from the Worker's one thread."""

    info: EngineInfo

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a whole prompt, special tokens parsed, BOS as the model wants it."""

    def controls(self, text: str) -> int:
        """How many control tokens are written out in the text, quickly."""

    def piece(self, token: int) -> bytes:
        """The token's bytes, which may be part of a character. Empty for control tokens."""

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""

    def sampler(self, sampling: Sampling, prompt: Sequence[int], index: int) -> Sampler:
        """Answer `index` of a Request draws with this; the same arguments draw the same tokens."""

    def copy(self, source: int, target: int) -> None:
        """Make slot `target` hold what `source` holds."""

    def trim(self, slot: int, length: int) -> bool:
        """Forget the slot's positions from `length` on. False: it could not, and the slot is now empty."""

    def step(self, batch: Sequence[Piece]) -> list[Drawn]:
        """Compute the batch; one Drawn for each Piece that has a sampler, in order. Raises EngineError."""

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        """One vector for each Piece that is its text's last: of length 1, FP32, little endian.

        `dropped` are slots whose texts were given up. Called only with an `info.embedding`.
        CannotEmbed: nothing was begun. EngineError.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a loaded Engine of tensors can do."""

    engine: str
    device: str  # that is really used: "cpu", "cuda", "tensorrt"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runners: int = 1  # runs at once that serve it best
    details: Mapping[str, Any] = field(default_factory=dict)  # for `status`

    @property
    def batches(self) -> bool:
        """Whether Requests can be joined along the first axis of all inputs and outputs."""
        return all(spec.shape[:1] == (None,) for spec in (*self.inputs, *self.outputs))


class TensorEngine(Protocol):
    """A loaded Version that makes tensors of tensors. `run` may be called from several threads at once."""

    info: TensorInfo

    def example(self, rows: int) -> dict[str, Any]:
        """Inputs that the model may take, of so many rows where it batches: numpy arrays by name."""

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """numpy arrays by name -> one array for each output named. EngineError: these inputs do not do.

        Of BYTES, an input's elements are bytes, an output's bytes or str.
        """

    def close(self) -> None: ...


@runtime_checkable
class RemoteEngine(Protocol):
    """A Version that another server runs. It has a loop of its own; see `agent/remote_worker.py`."""

    def serve(self, link: socket.socket) -> None:
        """Speak frames with the agent until it says stop. EngineError: that server cannot be had."""


Progress = Callable[[float], None]
"""Told the share of a load that is done, 0 to 1; the Worker's heartbeat while it loads."""

EngineFactory = Callable[[str, Mapping[str, Any], Progress], Engine | TensorEngine | RemoteEngine]
"""`(path of the model's file, engine settings, progress) -> Engine`. The entry point names one of these."""
