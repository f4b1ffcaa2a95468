"""The Worker: one process, one thread, one Engine. Three verbs: schedule, step, emit.

Started by the supervisor as `python -m agent.worker worker ...` with one end of a socket pair. It ends when
the agent does. Load and decode stay on the main thread (a second OpenMP team costs most of the speed).
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from agent import sharing
from agent.embedder import Embedder
from agent.engines.engine import CannotEmbed, Drawn, Engine, EngineError, RemoteEngine, TensorInfo
from agent.frames import Beat, Broken, Cancel, Loading, Reader, Ready, Said, Start, Stop, ToWorker
from agent.lent import Borrower
from agent.link import AgentGone, send
from agent.pace import Pace
from agent.rehearsal import calibrate, engine_factory, probe
from agent.request import Chunk
from agent.scheduler import Plan, Scheduler
from agent.sequence import Group, Sequence
from agent.tensor_worker import serve_tensors
from agent.text import Text

IDLE_BEAT = 0.5  # seconds
TOKENISED_A_STEP = 64 * 1024  # bytes, and one prompt more
MOST_CONTROLS = 2048  # control tokens in a prompt's text: llama.cpp's time for them is quadratic
PR_SET_PDEATHSIG = 1


class Worker:
    def __init__(self, engine: Engine, link: socket.socket, pace: Pace) -> None:
        self._engine = engine
        self._link = link
        self._news = select.poll()  # select() takes no descriptor beyond 1023, and the agent may have many
        self._news.register(link, select.POLLIN)
        self._reader = Reader(ToWorker)
        info = engine.info
        self._scheduler = Scheduler(info.slots, info.context, pace, info.trims)
        self._embedder = Embedder(info.embedding) if info.embedding else None
        self._embed_pace = pace.for_other_work(info.embedding.step if info.embedding else 1)
        self._starts: deque[Start] = deque()  # not tokenised yet
        self._said: list[Said] = []
        self._arrivals = 0
        self._steps = self._prompt_tokens = self._generated = self._cached = self._padded = self._embedded = 0
        self._last_step = 0.0
        self._last_batch = 0
        self._stopping = False

    def run(self) -> None:
        while not self._stopping:
            busy = bool(self._scheduler.running or self._scheduler.waiting or self._starts or self._embedder)
            self._receive(0 if busy else IDLE_BEAT)
            self._take_in()
            self._drop_late()
            plan = self._scheduler.plan()
            if plan.pieces:
                self._emit(plan, self._step(plan))
            self._embed(plan)
            self._beat()

    def _receive(self, timeout: float) -> None:
        while self._news.poll(1000 * timeout):
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
                self._drop(frame.id)
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
        if not prompt:
            return self._refuse(start.id, "invalid_request", "the prompt has no tokens")
        if any(not 0 <= token < engine.info.vocabulary for token in prompt):
            text = "the prompt has a token id outside the vocabulary"
            return self._refuse(start.id, "invalid_request", text)
        if start.embed:
            return self._start_embedding(start, prompt)
        if not engine.info.generates:
            return self._refuse(start.id, "invalid_request", "this model makes embeddings alone")
        context = engine.info.context
        if any(token >= engine.info.vocabulary for token in start.sampling.logit_bias):
            text = "logit_bias has a token id outside the vocabulary"
            return self._refuse(start.id, "invalid_request", text)
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

    def _start_embedding(self, start: Start, tokens: list[int]) -> None:
        info = self._engine.info.embedding
        if info is None or self._embedder is None:
            return self._refuse(start.id, "invalid_request", "this model makes no embeddings")
        if len(tokens) > info.context:
            text = f"an input has {len(tokens)} tokens, and this model takes {info.context} here"
            return self._refuse(start.id, "context_length_exceeded", text)
        self._arrivals += 1
        self._embedder.add(start, tokens, (-start.priority, self._arrivals))

    def _embed(self, plan: Plan) -> None:
        """A piece of what is to be embedded, after the step of `plan`; a short one beside others' rows."""
        if not self._embedder:
            return
        begun = time.monotonic()
        try:
            said, tokens = self._embedder.step(self._engine, self._embed_pace.piece(len(plan.pieces)))
        except CannotEmbed as error:  # the answers go on
            for request in self._embedder.clear():
                self._refuse(request, "model_unavailable", str(error))
            return
        self._embed_pace.took(0, 0, tokens, time.monotonic() - begun)
        self._said += said
        self._embedded += len(said)
        self._prompt_tokens += tokens

    def _drop_late(self) -> None:
        now = time.monotonic()
        late = self._scheduler.expired(now) + (self._embedder.expired(now) if self._embedder else [])
        for request in late:
            self._drop(request)
            self._refuse(request, "deadline_exceeded", "the deadline has passed")

    def _drop(self, request: str) -> None:
        self._scheduler.remove(request)
        if self._embedder:
            self._embedder.remove(request)

    def _step(self, plan: Plan) -> list[Drawn]:
        begun = time.monotonic()
        drawn = carry_out(plan, self._engine)
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
        scheduler, embedder = self._scheduler, self._embedder
        beat = Beat(
            said=self._said,
            running=len(scheduler.running) + (len(embedder.running) if embedder else 0),
            waiting=len(scheduler.waiting) + (len(embedder.waiting) if embedder else 0),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            cached_tokens=self._cached,
            padded=self._padded,
            embedded=self._embedded,
            kv_used=scheduler.kv_used(),
            step_seconds=self._last_step,
            batch=self._last_batch,
        )
        self._said = []
        send(self._link, beat)


def carry_out(plan: Plan, engine: Engine) -> list[Drawn]:
    """A plan's parts in their order: what was drawn for each of `plan.drawing`."""
    for source, target in plan.copies:
        engine.copy(source, target)
    for slot, keep in plan.trims:
        engine.trim(slot, keep)
    drawn = engine.step(plan.pieces)
    for slot, keep in plan.padding:
        engine.trim(slot, keep)
    return drawn


def serve(link: socket.socket, lent: Borrower, engine: str, model: str, settings: dict[str, Any]) -> None:
    def progress(share: float) -> None:
        send(link, Loading(share))

    try:
        progress(0.0)
        load = engine_factory(engine)
        loaded = load(model, settings, progress)
        if isinstance(loaded, RemoteEngine):
            sharing.take_share(settings.get("cpu_share", 1.0))
            return loaded.serve(link)
        if isinstance(loaded.info, TensorInfo):
            serve_tensors(loaded, lambda how: load(model, how, progress), link, lent, settings)
        else:
            pace = Pace(
                settings["step_target_ms"] / 1000, settings["step_tokens"], settings.get("prefill_piece")
            )
            if loaded.info.generates:
                calibrate(loaded, pace)
            sharing.take_share(settings.get("cpu_share", 1.0))
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
    parser.add_argument("--crash", type=int, help="inherited file descriptor for a crash's trace")
    parser.add_argument("--lent", type=int, help="inherited file descriptor of memory for tensors")
    parser.add_argument("--candidates", type=json.loads, default=[{}], help="JSON, for a probe")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", required=True, help="path of the model's file")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON")
    arguments = parser.parse_args()
    if arguments.crash is not None:
        faulthandler.enable(arguments.crash)  # where a crash inside a library happened
    # The agent's death ends this process even where it is stuck inside a step.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    Path("/proc/self/oom_score_adj").write_text("700")  # a Worker goes before the agent
    if arguments.role == "probe" or sharing.may_return():
        sharing.give_way()
    if arguments.role == "probe":
        return probe(arguments.engine, arguments.model, arguments.settings, arguments.candidates)
    link = socket.socket(fileno=arguments.socket)
    try:
        serve(link, Borrower(arguments.lent), arguments.engine, arguments.model, arguments.settings)
    except AgentGone:
        sys.exit(0)


if __name__ == "__main__":
    main()
