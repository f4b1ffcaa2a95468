"""The limit: onnxruntime alone, at its best, where wanted beside a process that burns what clients would.

A server of this machine shares its cores with the load process. `--burn MICROSECONDS` asks how fast a server
would be that costs nothing but `session.run`: for each row answered, a process beside it burns as much CPU as
the load process took for one request to the agent, by the same protocol and with as many clients.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from time import perf_counter

from bench.tensors.cases import ROWS, Case, case
from bench.tensors.figures import Figures, Log, Window, show, summarise
from bench.tensors.session import session


@dataclass(frozen=True, slots=True)
class Arrangement:
    """So many runs at once, of so many rows each, on so many threads each."""

    rows: int
    runs: int
    threads: int

    def __str__(self) -> str:
        return f"{self.runs} x {self.rows} rows, {self.threads} thread{'s' * (self.threads > 1)} each"


def arrangements(cores: int) -> list[Arrangement]:
    """All that are tried: one run at a time on one thread or all, and a run on each core."""
    ways = dict.fromkeys([(1, 1), (1, cores), (cores, 1)])
    return [Arrangement(rows, runs, threads) for rows in (1, 2, 4, 8, 16, 32) for runs, threads in ways]


def burn(answered: Synchronized[int], us: float, window: Window, spent: Synchronized[float]) -> None:
    """Pay `us` microseconds of CPU for each row that is answered, a moment after."""
    start = time.process_time()
    before: float | None = None
    while (now := perf_counter()) < window.ended:
        if before is None and now >= window.began:
            before = time.process_time()
        owed = start + answered.value * us / 1e6
        if time.process_time() >= owed:
            time.sleep(0.0005)
            continue
        while time.process_time() < owed and perf_counter() < window.ended:
            pass
    spent.value = time.process_time() - (start if before is None else before)


def measure(asked: Case, how: Arrangement, window: Window, burn_us: float) -> Figures:
    spawn = multiprocessing.get_context("spawn")
    answered, spent = spawn.Value("q", 0), spawn.Value("d", 0.0)
    burner = spawn.Process(target=burn, args=(answered, burn_us, window, spent))
    if burn_us:
        burner.start()
    one = session(str(asked.path), how.threads, spin=how.runs == 1)
    inputs, log = {asked.input.name: asked.example(how.rows)}, Log()

    def runner() -> None:
        while (started := perf_counter()) < window.ended:
            one.run(None, inputs)
            ended = perf_counter()
            with answered.get_lock():
                log.answered(started, ended)
                answered.value += how.rows

    runners = [threading.Thread(target=runner) for _ in range(how.runs)]
    for each in runners:
        each.start()
    for each in runners:
        each.join()
    if burn_us:
        burner.join()
    return summarise(log, window, spent.value, how.rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tensors.limit", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1, help="of a batch")
    parser.add_argument("--runs", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--burn", type=float, default=0, help="microseconds of CPU a row, beside it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--window", nargs=2, type=float, help="seconds on the monotonic clock")
    args = parser.parse_args()
    window = Window(*args.window) if args.window else Window(perf_counter() + 1, perf_counter() + 5)
    how = Arrangement(args.rows, args.runs, args.threads)
    asked = case(args.model, args.file, ROWS[args.model])
    show(measure(asked, how, window, args.burn), as_json=args.json)


if __name__ == "__main__":
    main()
