"""An Engine that answers with its prompt: bytes are tokens. Told by its prompt, it crashes, hangs or dawdles.

A prompt may hold directives: `<crash>` raises SIGSEGV when it is computed, `<crash-after N>` after N tokens
of the answer, `<hang>` stops the process, `<eat N>` takes N MiB of memory for a moment, `<slow S>` sleeps S
seconds a step, `<fail>` raises EngineError. Its KV cache is checked: a Piece that does not continue what its
slot holds is an EngineError. A load crashes where the file that ECHO_CRASHES_ONCE names is there, and
takes it away. Directives count in a text to embed too; its vector counts four of its bytes.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.engines.engine import Drawn, EmbedInfo, EmbedPiece, EngineError, EngineInfo, Piece, Progress
from agent.request import Sampling, TokenLogprob

END = 256
VOCABULARY = 257
BROKEN = 13.0  # a model whose last weight is this does not load


@dataclass
class EchoSampler:
    """Draws the bytes of the prompt's last line, one by one, then the end."""

    answer: bytes
    prompt: str
    repeat: bool
    logprobs: int | None
    drawn: int = 0

    def accept(self, token: int) -> None:
        self.drawn += 1

    def next(self) -> int:
        if self.drawn < len(self.answer):
            return self.answer[self.drawn]
        return self.answer[self.drawn % len(self.answer)] if self.repeat and self.answer else END


@dataclass
class EchoEngine:
    info: EngineInfo
    step_seconds: float
    kv: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)  # that are being embedded, by slot

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def controls(self, text: str) -> int:
        return 0

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def ends(self, token: int) -> bool:
        return token == END

    def sampler(self, sampling: Sampling, prompt: Sequence[int], index: int) -> EchoSampler:
        text = bytes(token for token in prompt if token < END).decode(errors="replace")
        return EchoSampler(_answer(text).encode(), text, sampling.ignore_eos, sampling.logprobs)

    def copy(self, source: int, target: int) -> None:
        self.kv[target] = list(self.kv.get(source, []))

    def trim(self, slot: int, length: int) -> bool:
        self.kv[slot] = self.kv.get(slot, [])[:length]
        return True

    def step(self, batch: Sequence[Piece]) -> list[Drawn]:
        time.sleep(self.step_seconds)
        drawn = []
        for piece in batch:
            held = self.kv.setdefault(piece.slot, [])
            if len(held) != piece.start:
                raise EngineError(f"slot {piece.slot} holds {len(held)}, the piece starts at {piece.start}")
            held.extend(piece.tokens)
            if len(held) > self.info.context:
                raise EngineError(f"slot {piece.slot} is over its context")
            if isinstance(piece.sampler, EchoSampler):
                _obey(piece.sampler)
                drawn.append(_draw(piece.sampler))
        return drawn

    def embed(self, pieces: Sequence[EmbedPiece], dropped: Sequence[int]) -> list[bytes]:
        time.sleep(self.step_seconds)
        for slot in (*dropped, *(piece.slot for piece in pieces if piece.start == 0)):
            self.texts.pop(slot, None)
        found = []
        for piece in pieces:
            held = self.texts.setdefault(piece.slot, [])
            if len(held) != piece.start:
                raise EngineError(f"text {piece.slot} has {len(held)}, the piece starts at {piece.start}")
            held.extend(piece.tokens)
            if piece.last:
                text = bytes(self.texts.pop(piece.slot)).decode(errors="replace")
                _obey(EchoSampler(b"", text, False, None))
                found.append(_vector(text))
        return found

    def close(self) -> None:
        self.kv.clear()


def _vector(text: str) -> bytes:
    counts = [1.0 + text.count(letter) for letter in "aeio"]
    length = sum(count * count for count in counts) ** 0.5
    return struct.pack("<4f", *(count / length for count in counts))


def _answer(text: str) -> str:
    """The last message's content where the echo template rendered a chat, else the whole prompt."""
    body = text.removesuffix("assistant: ").rstrip("\n").rpartition("user: ")[2]
    return re.sub(r"<(crash|hang|eat|slow|fail)[^>]*>", "", body)


def _draw(sampler: EchoSampler) -> Drawn:
    token = sampler.next()
    if sampler.logprobs is None:
        return Drawn(token)
    data = bytes([token]) if token < END else b""
    return Drawn(token, TokenLogprob(data, 0.0, ((data, 0.0),) * min(sampler.logprobs, 1)))


def _obey(sampler: EchoSampler) -> None:
    for name, argument in re.findall(r"<(crash-after|crash|hang|eat|slow|fail) ?([^>]*)>", sampler.prompt):
        if name == "crash" or (name == "crash-after" and sampler.drawn >= int(argument)):
            os.kill(os.getpid(), signal.SIGSEGV)
        elif name == "eat":
            [b"x" * (1 << 20) for _ in range(int(argument))]
        elif name == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif name == "slow":
            time.sleep(float(argument))
        elif name == "fail":
            raise EngineError("told to fail")


def load(model: str, settings: Mapping[str, Any], progress: Progress) -> EchoEngine:
    if Path(model).read_bytes().endswith(struct.pack("<f", BROKEN)):
        raise EngineError("this model is broken")
    if (mine := Path(os.environ.get("ECHO_CRASHES_ONCE", "/nonexistent"))).exists():
        mine.unlink()
        os.kill(os.getpid(), signal.SIGSEGV)
    if trials := settings.get("count_loads_in"):
        with Path(trials).open("a") as file:
            file.write("load\n")
    if settings.get("crash") or (settings.get("crash_with_extras") and settings.get("extra_bufts", True)):
        os.kill(os.getpid(), signal.SIGSEGV)
    progress(1.0)
    context = int(settings.get("context") or 4096)
    info = EngineInfo(
        engine="echo",
        slots=int(settings.get("slots") or 8),
        context=context,
        vocabulary=VOCABULARY,
        device="cpu",
        embedding=EmbedInfo(4, context, slots=4, step=64, room=context, whole=False, pooling="mean"),
    )
    return EchoEngine(info, float(os.environ.get("ECHO_STEP_SECONDS", "0")))
