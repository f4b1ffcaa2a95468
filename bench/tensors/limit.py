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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from time import perf_counter

from bench.tensors.cases import ROWS, Case, case
from bench.tensors.figures import Figures, Log, show, summarise, window_of
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


def burn(answered: Synchronized[int], us: float, spent: Synchronized[float], ready: Event) -> None:
    """Pay `us` microseconds of CPU for each row that is answered, a moment after; for ever."""
    start = time.process_time()
    ready.set()
    while True:
        owed = answered.value * us / 1e6
        while (paid := time.process_time() - start) < owed:
            pass
        spent.value = paid
        time.sleep(0.0005)


@contextmanager
def burner(answered: Synchronized[int], us: float) -> Iterator[Synchronized[float]]:
    """The seconds that it has burned. It is there when this is entered."""
    spawn = multiprocessing.get_context("spawn")
    spent, ready = spawn.Value("d", 0.0), spawn.Event()
    process = spawn.Process(target=burn, args=(answered, us, spent, ready), daemon=True)
    process.start()
    ready.wait()
    try:
        yield spent
    finally:
        process.kill()
        process.join()


def measure(asked: Case, how: Arrangement, seconds: float, burn_us: float) -> Figures:
    answered = multiprocessing.get_context("spawn").Value("q", 0)
    one = session(str(asked.path), how.threads, spin=how.runs == 1)
    inputs, log = {asked.input.name: asked.example(how.rows)}, Log()
    with burner(answered, burn_us) if burn_us else nullcontext() as spent:
        window = window_of(seconds)

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
        time.sleep(window.began - perf_counter())
        before = spent.value if spent else 0.0
        time.sleep(window.ended - perf_counter())
        load_s = spent.value - before if spent else 0.0
        for each in runners:
            each.join()
    return summarise(log, window, load_s, how.rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tensors.limit", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1, help="of a batch")
    parser.add_argument("--runs", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--burn", type=float, default=0, help="microseconds of CPU a row, beside it")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    how = Arrangement(args.rows, args.runs, args.threads)
    asked = case(args.model, args.file, ROWS[args.model])
    show(measure(asked, how, args.seconds, args.burn), as_json=args.json)


if __name__ == "__main__":
    main()
