"""The load process: `python -m bench.load --url http://127.0.0.1:8080 --clients 8 --requests 48`.

Closed loop: each client sends its next request when the last one was answered. Open loop (`--rate`): requests
come at random moments, whatever the server does, as they do from people.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench import prompts, sse
from bench.figures import Answer, Figures, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send where."""

    host: str
    port: int
    clients: int = 8
    requests: int = 48  # so many answers are measured
    rate: float | None = None  # requests a second; None is a closed loop
    tokens: int = 64
    spread: bool = False  # answers of 1 to 2 * tokens tokens: leaves a server's slots scattered
    window: tuple[float, float] | None = (
        None  # on the monotonic clock: what is measured, in place of `requests`
    )
    warm_up: bool = True  # leave the first answer of each client out
    salt: int = 1  # each measurement of a running server needs another, or it answers from its prompt cache
    extra: dict[str, Any]  # what this server needs besides, to generate exactly `tokens` tokens greedily

    async def ask(self, n: int, exchange: sse.Exchange) -> None:
        tokens = random.Random(n).randint(1, 2 * self.tokens) if self.spread else self.tokens
        body = {
            "messages": prompts.messages(n),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        request = sse.post(self.host, self.port, "/v1/chat/completions", body | self.extra)
        await sse.ask(self.host, self.port, request, exchange)


async def closed(load: Load, numbers: Iterator[int]) -> tuple[list[Answer], float, float]:
    """All clients at once, each asking again and again, until `load.requests` were answered.

    The window opens when as many answers are there as there are clients: what a server has begun and not
    ended is then about the same at both ends of it, whether it works in waves or staggers its answers.
    A `load.window` stands where it stands, so that several loads can be measured at the same time.
    """
    exchanges: list[sse.Exchange] = []
    unmeasured = load.clients if load.warm_up else 0
    answered, enough = 0, asyncio.Event()
    began = perf_counter()

    async def client() -> None:
        nonlocal answered, began
        while True:
            exchanges.append(sse.Exchange())
            await load.ask(next(numbers), exchanges[-1])
            answered += 1
            if answered == unmeasured:
                began = perf_counter()
            if answered == unmeasured + load.requests:
                enough.set()

    tasks = [asyncio.create_task(client()) for _ in range(load.clients)]
    stop = asyncio.create_task(_until(load.window[1]) if load.window else enough.wait())
    done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    ended = perf_counter()
    for task in (stop, *tasks):
        task.cancel()
    for task in done:
        task.result()  # a client ends only by an error
    began, ended = load.window or (began, ended)
    return [sse.read(exchange) for exchange in exchanges], began, ended


async def _until(moment: float) -> None:
    await asyncio.sleep(moment - perf_counter())


async def staggered(load: Load, numbers: Iterator[int]) -> tuple[list[Answer], float, float]:
    """`load.requests` arrivals at `load.rate` a second (Poisson), at the same moments for every server."""
    assert load.rate
    chance = random.Random(1)
    if load.warm_up:
        await load.ask(next(numbers), sse.Exchange())
    exchanges = [sse.Exchange() for _ in range(load.requests)]

    began = due = perf_counter()
    async with asyncio.TaskGroup() as group:
        for exchange in exchanges:
            due += chance.expovariate(load.rate)
            await _until(due)
            group.create_task(load.ask(next(numbers), exchange))
    ended = perf_counter()
    return [sse.read(exchange) for exchange in exchanges], began, ended


async def run(load: Load) -> Figures:
    numbers = iter(prompts.numbers(load.salt))
    answers, began, ended = await (staggered if load.rate else closed)(load, numbers)
    return summarise(answers, began, ended, load.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rate", type=float, help="requests a second: an open loop with random arrivals")
    parser.add_argument("--window", nargs=2, type=float, help="in place of --requests: monotonic seconds")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--spread", action="store_true", help="answers of 1 to 2 * tokens tokens")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    parser.add_argument("--salt", type=int, default=os.getpid() % 997, help="another salt, other prompts")
    parser.add_argument(
        "--extra", type=json.loads, default={"ignore_eos": True}, help="JSON merged into each body"
    )
    parser.add_argument("--json", action="store_true")
    args = vars(parser.parse_args())
    url, as_json = urlsplit(args.pop("url")), args.pop("json")
    load = Load(host=url.hostname or "127.0.0.1", port=url.port or 80, **args)
    with contextlib.suppress(KeyboardInterrupt):
        figures = asdict(uvloop.run(run(load)))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures["load_cpu_s"] = (
            usage.ru_utime + usage.ru_stime
        )  # what measuring itself cost, start and reading included
        if as_json:
            print(json.dumps(figures))
        else:
            print("\n".join(f"{name:>14} {value:10.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
