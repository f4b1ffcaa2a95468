"""Small work for an Engine before its real work: what steps cost, and whether the build survives them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from agent.engines.engine import EmbedPiece, Engine, EngineError, EngineFactory, Piece
from agent.pace import LEAST, Pace
from agent.request import Sampling
from agent.tensor_trial import lone_trials, of_lone, trials

INSTALL = {"llama": "make install", "onnx": "pip install 'open-autoglm-edge[onnx]', or make install"}


def engine_factory(name: str) -> EngineFactory:
    """The Engine plug-in of that name: an entry point of `openautoglm.engines`."""
    for point in entry_points(group="openautoglm.engines", name=name):
        try:
            factory: EngineFactory = point.load()
        except ImportError as error:
            raise EngineError(
                f"the engine {name!r} is not whole: {error}. {INSTALL.get(name, '')}"
            ) from error
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


def probe(engine: str, model: str, settings: dict[str, Any], candidates: list[dict[str, Any]]) -> None:
    """Lines of JSON, [index, seconds]: null where a candidate does not work; a later line corrects one."""

    def load(candidate: dict[str, Any]) -> Any:
        return engine_factory(engine)(model, {**settings, **candidate}, lambda _: None)

    if "cap" in candidates[0]:
        timed = trials(load, candidates, settings.get("size") or Path(model).stat().st_size)
    elif "lone_threads" in candidates[0]:
        timed = lone_trials(lambda one: load(of_lone({**settings, **one})), candidates)
    else:
        timed = _rehearsals(load, candidates, bool(settings.get("brief")))
    for index, seconds in timed:
        print(json.dumps([index, seconds]), flush=True)


def _rehearsals(
    load: Callable[[dict[str, Any]], Engine], candidates: list[dict[str, Any]], brief: bool
) -> Iterator[tuple[int, float | None]]:
    for index, candidate in enumerate(candidates):
        seconds: float | None
        try:
            loaded = load(candidate)
            seconds = rehearse(loaded, brief) if loaded.info.generates else rehearse_texts(loaded)
            loaded.close()
        except EngineError:
            seconds = None
        yield index, seconds
