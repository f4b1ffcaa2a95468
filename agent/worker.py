"""The Worker: one process, one thread, one Engine. Three verbs: schedule, step, emit.

Started by the supervisor as `python -m agent.worker worker ...` with one end of a socket pair. It ends when
the agent does. Load and decode stay on the main thread (a second OpenMP team costs most of the speed).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import select
import signal
import socket
import sys
import time
from collections import deque
from importlib.metadata import entry_points
from pathlib import Path

from agent.engines.engine import Drawn, Engine, EngineError, EngineFactory, Piece
from agent.frames import (
    Beat,
    Broken,
    Cancel,
    Loading,
    Reader,
    Ready,
    Said,
    Start,
    Stop,
    ToAgent,
    ToWorker,
    encode,
)
from agent.pace import LEAST, Pace
from agent.request import Chunk, Sampling
from agent.scheduler import Plan, Scheduler
from agent.sequence import Group, Sequence
from agent.text import Text

IDLE_BEAT = 0.5  # seconds
TOKENISED_A_STEP = 64 * 1024  # bytes, and one prompt more
MOST_CONTROLS = 2048  # control tokens in a prompt's text: llama.cpp's time for them is quadratic
PR_SET_PDEATHSIG = 1


class AgentGone(Exception):
    """The socket's other end is closed."""


class Worker:
    def __init__(self, engine: Engine, link: socket.socket, pace: Pace) -> None:
        self._engine = engine
        self._link = link
        self._reader = Reader(ToWorker)
        info = engine.info
        self._scheduler = Scheduler(info.slots, info.context, pace, info.trims)
        self._starts: deque[Start] = deque()  # not tokenised yet
        self._said: list[Said] = []
        self._arrivals = 0
        self._steps = self._prompt_tokens = self._generated = self._cached = self._padded = 0
        self._last_step = 0.0
        self._last_batch = 0
        self._stopping = False

    def run(self) -> None:
        while not self._stopping:
            busy = bool(self._scheduler.running or self._scheduler.waiting or self._starts)
            self._receive(0 if busy else IDLE_BEAT)
            self._take_in()
            self._drop_late()
            plan = self._scheduler.plan()
            if plan.pieces:
                self._emit(plan, self._step(plan))
            self._beat()

    def _receive(self, timeout: float) -> None:
        while select.select([self._link], [], [], timeout)[0]:
            data = self._link.recv(1 << 20)
            if not data:
                raise AgentGone
            for frame in self._reader.feed(data):
                self._handle(frame)
            timeout = 0

    def _handle(self, frame: ToWorker) -> None:
        match frame:
            case Start():
                self._starts.append(frame)
            case Cancel():
                self._starts = deque(start for start in self._starts if start.id != frame.id)
                self._scheduler.remove(frame.id)
            case Stop():
                self._stopping = True

    def _take_in(self) -> None:
        """Tokenise what came, a bounded number of bytes a step: long prompts must not stall the others."""
        left = TOKENISED_A_STEP
        while self._starts and left > 0:
            start = self._starts.popleft()
            left -= len(start.prompt)
            self._start(start)

    def _start(self, start: Start) -> None:
        engine = self._engine
        if isinstance(start.prompt, str) and engine.controls(start.prompt) > MOST_CONTROLS:
            text = f"the prompt has more than {MOST_CONTROLS} control tokens"
            return self._refuse(start.id, "invalid_request", text)
        prompt = engine.tokenize(start.prompt) if isinstance(start.prompt, str) else list(start.prompt)
        context = engine.info.context
        if not prompt:
            return self._refuse(start.id, "invalid_request", "the prompt has no tokens")
        if any(not 0 <= token < engine.info.vocabulary for token in prompt):
            return self._refuse(
                start.id, "invalid_request", "the prompt has a token id outside the vocabulary"
            )
        if any(token >= engine.info.vocabulary for token in start.sampling.logit_bias):
            return self._refuse(
                start.id, "invalid_request", "logit_bias has a token id outside the vocabulary"
            )
        if len(prompt) >= context:
            text = f"the prompt has {len(prompt)} tokens, and this model's context is {context} tokens here"
            return self._refuse(start.id, "context_length_exceeded", text)
        limit = min(start.max_tokens or context, context - len(prompt))
        group = Group(start, prompt, start.n)
        self._arrivals += 1
        if start.echo:
            shown = b"".join(map(engine.piece, prompt)).decode("utf-8", "replace")
            self._said += [Said(start.id, Chunk(i, shown, attempt=start.attempt)) for i in range(start.n)]
        for index in range(start.n):
            sampler = engine.sampler(start.sampling, prompt, index)
            order = (-start.priority, self._arrivals)
            self._scheduler.add(Sequence(group, index, limit, sampler, Text(start.stop), order))

    def _drop_late(self) -> None:
        for request in self._scheduler.expired(time.monotonic()):
            self._scheduler.remove(request)
            self._refuse(request, "deadline_exceeded", "the deadline has passed")

    def _step(self, plan: Plan) -> list[Drawn]:
        begun = time.monotonic()
        for source, target in plan.copies:
            self._engine.copy(source, target)
        for slot, keep in plan.trims:
            self._engine.trim(slot, keep)
        drawn = self._engine.step(plan.pieces)
        for slot, keep in plan.padding:
            self._engine.trim(slot, keep)
        self._last_step = time.monotonic() - begun
        self._last_batch = len(plan.pieces) - len(plan.padding)
        self._scheduler.done(plan, self._last_step)
        self._steps += 1
        self._prompt_tokens += plan.prompt_tokens
        self._cached += plan.cached
        self._padded += len(plan.padding)
        return drawn

    def _emit(self, plan: Plan, drawn: list[Drawn]) -> None:
        self._generated += len(drawn)
        for one, token in zip(plan.drawing, drawn, strict=True):
            ends = self._engine.ends(token.token) and not one.group.start.sampling.ignore_eos
            one.sampler.accept(token.token)
            full = one.computed >= self._engine.info.context
            chunk = one.take(token, self._engine.piece(token.token), ends, full)
            if chunk is None:
                continue
            self._said.append(Said(one.group.start.id, chunk))
            if chunk.finish:
                self._scheduler.finish(one)

    def _refuse(self, request: str, code: str, message: str) -> None:
        self._said.append(Said(request, None, code, message))

    def _beat(self) -> None:
        scheduler = self._scheduler
        beat = Beat(
            said=self._said,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            cached_tokens=self._cached,
            padded=self._padded,
            kv_used=scheduler.kv_used(),
            step_seconds=self._last_step,
            batch=self._last_batch,
        )
        self._said = []
        send(self._link, beat)


def send(link: socket.socket, frame: ToAgent) -> None:
    try:
        link.sendall(encode(frame))
    except (BrokenPipeError, ConnectionResetError) as error:
        raise AgentGone from error


def engine_factory(name: str) -> EngineFactory:
    """The Engine plug-in of that name: an entry point of `openautoglm.engines`."""
    for point in entry_points(group="openautoglm.engines", name=name):
        factory: EngineFactory = point.load()
        return factory
    raise EngineError(f"no engine named {name!r} is installed")


def calibrate(engine: Engine, pace: Pace) -> None:
    """Time a few small steps, so that the first plans are not guesses. Leaves the slots empty."""
    wide = min(4, engine.info.slots)
    sampling = Sampling(temperature=0)
    for rows, length in ((1, 1), (1, 1), (wide, 1), (1, 1), (wide, 1), (1, LEAST)):
        pieces = [Piece(slot, 0, [0] * length, engine.sampler(sampling, [0], 0)) for slot in range(rows)]
        begun = time.monotonic()
        engine.step(pieces)
        seconds = time.monotonic() - begun
        for slot in range(rows):
            engine.trim(slot, 0)
        pace.took(1, 0 if length > 1 else rows, length if length > 1 else 0, seconds)


def rehearse(engine: Engine, brief: bool) -> float:
    """Seconds that an answer of 64 tokens to 40 new ones costs in a batch of 8. A broken build crashes here.

    `brief`: just see whether it crashes.

    The least of several timings, since a neighbour on this machine can only make them longer.
    """
    rows, depth = min(8, engine.info.slots), 128
    greedy = engine.sampler(Sampling(temperature=0), [0], 0)

    def timed(batch: list[Piece]) -> float:
        begun = time.monotonic()
        engine.step(batch)
        return time.monotonic() - begun

    if brief:
        return timed([Piece(0, 0, [1] * 8, greedy)])
    engine.step([Piece(0, 0, [1] * (depth // 2), greedy)])
    prompts = []
    for _ in range(2):
        prompts.append(timed([Piece(0, depth // 2, [1] * (depth // 2), greedy)]))
        engine.trim(0, depth // 2)
    engine.step([Piece(0, depth // 2, [1] * (depth // 2), greedy)])
    for slot in range(1, rows):
        engine.copy(0, slot)
    steps = [timed([Piece(slot, depth + at, [1], greedy) for slot in range(rows)]) for at in range(5)]
    return 40 * min(prompts) / (depth // 2) + 64 * min(steps) / rows


def probe(engine: str, model: str, settings: dict[str, object], candidates: list[dict[str, object]]) -> None:
    """A line for each candidate: its seconds, or null where it cannot be loaded."""
    for candidate in candidates:
        try:
            loaded = engine_factory(engine)(model, {**settings, **candidate}, lambda _: None)
            seconds: float | None = rehearse(loaded, bool(settings.get("brief")))
            loaded.close()
        except EngineError:
            seconds = None
        print(json.dumps(seconds), flush=True)


def serve(link: socket.socket, engine: str, model: str, settings: dict[str, object]) -> None:
    def progress(share: float) -> None:
        send(link, Loading(share))

    pace = Pace(
        float(str(settings["step_target_ms"])) / 1000,
        int(str(settings["step_tokens"])),
        int(str(piece)) if (piece := settings.get("prefill_piece")) else None,
    )
    try:
        progress(0.0)
        loaded = engine_factory(engine)(model, settings, progress)
        calibrate(loaded, pace)
        send(link, Ready(loaded.info))
        Worker(loaded, link, pace).run()
        loaded.close()
    except EngineError as error:
        send(link, Broken(str(error)))
        sys.exit(3)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="autoglm worker", description="Runs one Engine; started by the agent."
    )
    parser.add_argument("role", choices=["worker", "probe"])
    parser.add_argument("--socket", type=int, help="inherited file descriptor, for a worker")
    parser.add_argument("--candidates", type=json.loads, default=[{}], help="JSON, for a probe")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", required=True, help="path of the model's file")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON")
    arguments = parser.parse_args()
    # The agent's death ends this process even where it is stuck inside a step.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    Path("/proc/self/oom_score_adj").write_text("700")  # a Worker goes before the agent
    if arguments.role == "probe":
        return probe(arguments.engine, arguments.model, arguments.settings, arguments.candidates)
    link = socket.socket(fileno=arguments.socket)
    try:
        serve(link, arguments.engine, arguments.model, arguments.settings)
    except AgentGone:
        sys.exit(0)


if __name__ == "__main__":
    main()
