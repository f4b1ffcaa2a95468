"""What crosses the socket pair between the agent and a Worker.

MessagePack, each frame behind its length (4 bytes, little endian).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from agent.engines.engine import EngineInfo, TensorInfo
from agent.request import Chunk, Message, Prompt, Sampling
from agent.tensor import Tensor

MAX_FRAME = 64 * 1024 * 1024  # a prompt is bounded far below this; more is a broken peer
MOST_TOGETHER = 16 * 1024 * 1024  # of answers that go in one frame; a single answer may have more
_LENGTH = struct.Struct("<I")


class Start(msgspec.Struct, frozen=True, tag=True):
    """Agent to Worker: begin a Request. `deadline` is CLOCK_MONOTONIC, which both processes share."""

    id: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    n: int
    priority: int
    deadline: float | None
    attempt: int
    echo: bool = False
    messages: tuple[Message, ...] | None = None  # a chat for a model with its own template; then no `prompt`
    template_kwargs: Mapping[str, Any] = {}  # for that template
    embed: bool = False
    texts: tuple[Prompt, ...] = ()  # to embed, in place of the prompt, where another server does it


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Agent to Worker: drop the Request at the next step; no answer is owed."""

    id: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Agent to Worker: exit now, in good order."""


class Infer(msgspec.Struct, frozen=True, tag=True):
    """Agent to Worker: begin an Inference. `deadline` as in Start.

    `lent`: where each input's bytes begin and end in the memory that is lent; none: they are here.
    """

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    priority: int
    deadline: float | None
    lent: tuple[tuple[int, int], ...] = ()


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent: the load goes on; `share` of it is done, 0 to 1."""

    share: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent: loaded and warm."""

    info: EngineInfo


class TensorsReady(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent: loaded and warm, an Engine of tensors. `borrows`: it reads lent memory too."""

    info: TensorInfo
    borrows: bool = False


class Broken(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent: the load failed, or a step did; the Worker exits after this."""

    reason: str


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One Request's news of a step: a Chunk, or the error that ended it."""

    id: str
    chunk: Chunk | None = None
    code: str = ""
    message: str = ""
    retry_after: float | None = None  # seconds, of the error


class Beat(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent, at each step and at least each half second: the loop lives, and what it did.

    Counters (`steps` to `embedded`) grow since the Worker's start; the rest are of this moment.
    """

    said: list[Said] = []
    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    padded: int = 0
    embedded: int = 0  # texts that vectors were made of
    kv_used: float = 0.0  # share of all slots' positions that active Sequences hold
    step_seconds: float = 0.0  # of the last step
    batch: int = 0  # Sequences in the last step
    trouble: str = ""  # why nothing can be answered now, though the Worker is well: a remote server is away

    @property
    def fruitful(self) -> bool:
        """Whether this Worker has done something for somebody."""
        return self.generated_tokens + self.embedded > 0


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """How one Inference ended: its outputs, or the error."""

    id: str
    outputs: tuple[Tensor, ...] | None = None
    code: str = ""
    message: str = ""
    retry_after: float | None = None  # seconds, of the error


class Ran(msgspec.Struct, frozen=True, tag=True):
    """Worker to agent, after each batch and at least each half second: the loop lives, and what was run.

    `rows` and `seconds` are of this batch; 0 rows: nothing was run. `read`: where parts of lent memory begin
    that the Worker looks at no more.
    """

    answered: list[Answered] = []
    rows: int = 0
    seconds: float = 0.0
    waiting: int = 0
    trouble: str = ""  # as in Beat
    read: list[int] = []

    @property
    def fruitful(self) -> bool:
        return self.rows > 0


ToWorker = Start | Infer | Cancel | Stop
ToAgent = Loading | Ready | TensorsReady | Broken | Beat | Ran

_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


def encode(frame: ToWorker | ToAgent) -> bytearray:
    made = bytearray()
    encode_onto(made, frame)
    return made


def encode_onto(out: bytearray, frame: ToWorker | ToAgent) -> None:
    """Append the frame: a tensor's bytes are copied once. What raises leaves `out` as it was."""
    at = len(out)
    try:
        _encoder.encode_into(frame, out, at + _LENGTH.size)
        _LENGTH.pack_into(out, at, len(out) - at - _LENGTH.size)
    except BaseException:
        del out[at:]
        raise


def size_of(said: Said) -> int:
    """Bytes that it takes of a frame. ValueError, OverflowError: no frame can have it."""
    return len(_encoder.encode(said))


class Reader:
    """Gathers bytes and gives whole frames of one direction's kinds. ValueError: the peer is broken."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._begun = bytearray()  # what has come of a frame that is not whole
        self._wanted = 0  # bytes that it has to have before it is worth another look

    def feed(self, data: bytes | memoryview) -> Iterator[Any]:
        """`data` is read from where it lies, and is not kept."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._wanted:
                return
            gathered, self._begun = self._begun, bytearray()
            whole = memoryview(gathered)
        else:
            whole = memoryview(data)
        at = 0
        while (begin := at + _LENGTH.size) <= len(whole):
            (length,) = _LENGTH.unpack_from(whole, at)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(whole) < begin + length:
                break
            try:
                frame = self._decoder.decode(whole[begin : begin + length])
            except msgspec.MsgspecError as error:
                raise ValueError(f"not a frame: {error}") from error
            at = begin + length
            yield frame
        self._begun += whole[at:]
        self._wanted = begin - at + (length if begin <= len(whole) else 0)
