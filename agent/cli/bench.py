"""`bench`: what this box does with this model, measured over HTTP against the running agent.

A closed loop: each client asks again as soon as it has its answer. Greedy; the prompts differ in their end,
so that the agent's prefix cache helps as it would for users who share a system prompt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.cli.errors import UsageError
from agent.cli.node import Node, load_settings, need
from agent.cli.screen import err, print_json, table

SYSTEM = "You are a careful assistant on an edge device. Answer in full sentences, and keep to the point."


@dataclass
class Timings:
    """Seconds, of all answers at one number of clients; `gaps` are between two pieces of one answer."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0


def bench(clients: str, model: str | None, requests: int, max_tokens: int, json: bool) -> None:
    counts = _counts(clients)
    settings = load_settings()
    _ask(need(settings), _body(model, 0, 8), Timings(), threading.Lock())  # warm, and fails early
    rows = []
    for count in counts:
        if err.is_terminal:
            err.print(f"  {count} clients ...", end="\r")
        rows.append(_measure([need(settings) for _ in range(count)], model, requests, max_tokens))
    if json:
        print_json(rows)
        return
    heads = ("CLIENTS", "TOKENS/S", "TTFT p50", "TTFT p99", "BETWEEN p50", "BETWEEN p99")
    table(heads, [[_cell(name, value) for name, value in row.items()] for row in rows], numbers=6)
    err.print("Times in milliseconds; BETWEEN is the time between two tokens of one answer.")


def _measure(nodes: Sequence[Node], model: str | None, requests: int, max_tokens: int) -> dict[str, float]:
    timings, lock = Timings(), threading.Lock()

    def client(number: int) -> None:
        for turn in range(requests):
            _ask(nodes[number], _body(model, number * requests + turn, max_tokens), timings, lock)

    begin = time.monotonic()
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(client, range(len(nodes))))
    seconds = time.monotonic() - begin
    return {
        "clients": len(nodes),
        "tokens_per_second": timings.tokens / seconds,
        "ttft_p50_ms": _percentile(timings.first, 50) * 1000,
        "ttft_p99_ms": _percentile(timings.first, 99) * 1000,
        "between_p50_ms": _percentile(timings.gaps, 50) * 1000,
        "between_p99_ms": _percentile(timings.gaps, 99) * 1000,
    }


def _ask(node: Node, body: dict[str, Any], into: Timings, lock: threading.Lock) -> None:
    begin = last = time.monotonic()
    first, gaps, tokens = 0.0, [], 0
    for event in node.events("/v1/chat/completions", body):
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        if not event["choices"] or not event["choices"][0]["delta"].get("content"):
            continue
        now = time.monotonic()
        if first:
            gaps.append(now - last)
        else:
            first = now - begin
        last = now
    with lock:
        into.first.append(first)
        into.gaps += gaps
        into.tokens += tokens


def _body(model: str | None, number: int, max_tokens: int) -> dict[str, Any]:
    question = f"Case {number}: describe what a sensor in field {number * 7 % 100} may report today."
    return {
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
        **({"model": model} if model else {}),
    }


def _counts(clients: str) -> list[int]:
    try:
        counts = [int(part) for part in clients.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or max(counts) > 256:
        raise UsageError(f"--clients {clients}: give numbers from 1 to 256 with commas, such as 1,4,8")
    return counts


def _percentile(values: Sequence[float], share: int) -> float:
    """The nearest-rank percentile; 0 where nothing was measured."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * share // 100)] if ranked else 0.0


def _cell(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "clients" or value >= 100 else f"{value:.1f}"
