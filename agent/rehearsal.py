"""Small work for an Engine before its real work: what steps cost, and whether the build survives them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from typing import Any

from agent.engines.engine import (
    EmbedPiece,
    Engine,
    EngineError,
    EngineFactory,
    Piece,
    TensorEngine,
    TensorInfo,
)
from agent.pace import LEAST, Pace
from agent.request import Sampling

TRIAL_S = 0.3  # of each way to run tensors


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


def rehearse_texts(engine: Engine) -> float:
    """Seconds that a vector of 64 tokens costs, the better of two."""

    def timed() -> float:
        begun = time.monotonic()
        engine.embed([EmbedPiece(0, 0, [1] * 64, last=True)], ())
        return time.monotonic() - begun

    return min(timed(), timed())


def rehearse_tensors(engine: TensorEngine, cap: int, runners: int) -> float:
    """Seconds that a row costs where so many runs at once have `cap` rows each."""
    inputs = engine.example(cap)
    names = [spec.name for spec in engine.info.outputs]
    engine.run(inputs, names)  # the first run is slower
    until = time.monotonic() + TRIAL_S

    def work() -> int:
        done = 0
        while time.monotonic() < until:
            engine.run(inputs, names)
            done += cap
        return done

    begun = time.monotonic()
    with ThreadPoolExecutor(runners) as pool:
        rows = sum(one.result() for one in [pool.submit(work) for _ in range(runners)])
    return (time.monotonic() - begun) / max(rows, 1)


def probe(engine: str, model: str, settings: dict[str, Any], candidates: list[dict[str, Any]]) -> None:
    """A line for each candidate: its seconds, or null where it cannot be loaded."""
    for candidate in candidates:
        try:
            loaded = engine_factory(engine)(model, {**settings, **candidate}, lambda _: None)
            seconds: float | None
            if isinstance(loaded.info, TensorInfo):
                seconds = rehearse_tensors(loaded, int(candidate["cap"]), int(candidate["runners"]))
            elif not loaded.info.generates:
                seconds = rehearse_texts(loaded)
            else:
                seconds = rehearse(loaded, bool(settings.get("brief")))
            loaded.close()
        except EngineError:
            seconds = None
        print(json.dumps(seconds), flush=True)
