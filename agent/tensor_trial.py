"""Which way of running tensors is fastest here: rows of a batch, runs at once, threads of each run.

And whether a caller who is alone is better served by a session of its own, with all threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

from agent.engines.engine import EngineError, TensorEngine

Choice = dict[str, Any]
Load = Callable[[Choice], TensorEngine]

WINDOW_S = 0.08  # of a measurement, and one run at least
ROUNDS = 3  # more of them, in turn, for the two that are best
LONE_ROUNDS = 6
WORSE = 0.95  # of the best speed so far: two caps in a row below it, and larger ones are not tried
BUDGET_S = 10.0  # for a slow model: then what has been found decides
SMALL = 256 << 20  # bytes of a model that may be loaded twice


class Cost(NamedTuple):
    """Seconds a row: on the clock, and of the CPU, which neighbours on a busy machine change little."""

    wall: float
    cpu: float  # as `wall` where another device computes


class Runs:
    """So many runs at once of `cap` rows each, as they can be timed again and again."""

    def __init__(self, engine: TensorEngine, cap: int, runners: int) -> None:
        self._engine, self._runners = engine, runners
        self._rows = cap if engine.info.batches else 1
        self._inputs = engine.example(cap)
        self._names = [spec.name for spec in engine.info.outputs]
        engine.run(self._inputs, self._names)  # the first run is slower

    def cost(self) -> Cost:
        """EngineError."""
        begun, cpu = time.monotonic(), time.process_time()

        def work() -> int:
            done = 0
            while not done or time.monotonic() < begun + WINDOW_S:
                self._engine.run(self._inputs, self._names)
                done += self._rows
            return done

        with ThreadPoolExecutor(self._runners) as pool:
            rows = sum(one.result() for one in [pool.submit(work) for _ in range(self._runners)])
        wall = (time.monotonic() - begun) / rows
        return Cost(wall, (time.process_time() - cpu) / rows if self._engine.info.device == "cpu" else wall)


def trials(load: Load, candidates: list[Choice], size: int) -> Iterator[tuple[int, float | None]]:
    """(index, seconds that a row costs) of candidates; None: it does not work. A later pair corrects one.

    Candidates of the same runners and threads lie side by side, their caps growing. A neighbour on this
    machine can only make a run slower, so the least of several timings counts.
    """
    until = time.monotonic() + BUDGET_S
    found: dict[int, tuple[float, Runs | None]] = {}
    for _, way in groupby(enumerate(candidates), lambda one: (one[1]["runners"], one[1]["threads"])):
        for index, seconds, runs in _climb(load, list(way), until):
            if seconds is not None:
                found[index] = seconds, runs if size < SMALL else None
            yield index, seconds
    best = sorted(found, key=lambda index: found[index][0])[:2]
    finalists = {index: runs for index in best if (runs := found[index][1])}
    for index, costs in in_turn(finalists, ROUNDS, until).items():
        yield index, min([*(one.wall for one in costs), found[index][0]])


def of_lone(settings: Choice) -> Choice:
    """Of the session that a batch has which is alone: its threads wait for each other by spinning.

    They stop with the run, else they would take the cores from whoever is next.
    """
    threads = settings["lone_threads"] or settings["threads"]
    return {**settings, "threads": threads, "runners": 1, "spin": threads > settings["threads"]}


def lone_trials(load: Load, candidates: list[Choice]) -> Iterator[tuple[int, float | None]]:
    """As `trials`: seconds of one row's run with nothing beside it.

    The least of many, by turns: threads that compute together are slowed by any neighbour, one is not.
    """
    engines = {}
    for index, candidate in enumerate(candidates):
        try:
            engines[index] = load(candidate)
            _run_times(engines[index], 0.0)  # the first run is slower
        except EngineError:
            engines.pop(index, None)
            yield index, None
    until = time.monotonic() + BUDGET_S
    least = dict.fromkeys(engines, float("inf"))
    for turn in range(LONE_ROUNDS):
        if turn and time.monotonic() > until:
            break
        for index, engine in engines.items():
            least[index] = min(least[index], *_run_times(engine, WINDOW_S))
    yield from least.items()


def _run_times(engine: TensorEngine, seconds: float) -> list[float]:
    """Of runs of one row for so long, one at least. EngineError."""
    inputs, names = engine.example(1), [spec.name for spec in engine.info.outputs]
    times: list[float] = []
    until = time.monotonic() + seconds
    while not times or time.monotonic() < until:
        begun = time.perf_counter()
        engine.run(inputs, names)
        times.append(time.perf_counter() - begun)
    return times


def _climb(
    load: Load, way: list[tuple[int, Choice]], until: float
) -> Iterator[tuple[int, float | None, Runs | None]]:
    """From small caps to larger ones, as long as that may pay."""
    try:
        engine = load(way[0][1])
    except EngineError:
        yield from ((index, None, None) for index, _ in way)
        return
    best, worse = float("inf"), 0
    for index, candidate in way:
        too_late = time.monotonic() > until and best < float("inf")
        if worse == 2 or too_late or (candidate["cap"] > 1 and not engine.info.batches):
            return
        try:
            runs = Runs(engine, candidate["cap"], candidate["runners"])
            seconds = runs.cost().wall
        except EngineError:
            yield index, None, None
            return
        yield index, seconds, runs
        worse = worse + 1 if seconds > best / WORSE else 0
        best = min(best, seconds)


def in_turn(all_runs: dict[int, Runs], rounds: int, until: float) -> dict[int, list[Cost]]:
    """What each costs in each round, by turns: what disturbs one disturbs the others. One round at least."""
    told: dict[int, list[Cost]] = {index: [] for index in all_runs}
    for turn in range(rounds):
        if turn and time.monotonic() > until:
            break
        for index, runs in all_runs.items():
            told[index].append(runs.cost())
    return told
