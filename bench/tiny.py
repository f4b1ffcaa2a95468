"""`python -m bench tiny`: a model that costs nothing, over HTTP, beside a bare uvicorn application; by wrk.

What is left is the agent itself: its checks, its metrics, its way to the Worker and back.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from statistics import median

import numpy as np
from rich.table import Table

from bench import peers, report, servers, wrk
from bench.servers import Server
from bench.table import machine, spread
from bench.tensors import contestants, wire
from bench.tensors.cases import Case, case
from bench.tensors.contestants import AGENT, Contestant
from bench.tensors.table import BY
from tests.support.onnx_file import FLOAT, data, node, number, value_info

BARE = "bare uvicorn"
TARGET = 0.5  # of what the bare application answers
HEADS = ["by", "contestant", "requests/s", "of bare uvicorn", "p50 ms", "p99 ms", "server µs", "errors"]
Found = dict[tuple[str, str], list[dict[str, float]]]  # by protocol and contestant, a round each


def model(folder: Path) -> Case:
    """16 numbers to 4: one Gemm, a few microseconds."""
    chance = np.random.default_rng(1)
    graph = data(1, node("Gemm", ("x", "w", "b"), ("y",))) + data(2, "tiny")
    for name, shape in {"w": (16, 4), "b": (4,)}.items():
        raw = chance.uniform(-1, 1, shape).astype("<f4").tobytes()
        dims = b"".join(number(1, size) for size in shape)
        graph += data(5, dims + number(2, FLOAT) + data(8, name) + data(9, raw))
    graph += data(11, value_info("x", FLOAT, (None, 16))) + data(12, value_info("y", FLOAT, (None, 4)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.onnx"
    path.write_bytes(number(1, 8) + data(7, graph) + data(8, data(1, "") + number(2, 17)))
    return case("tiny", path, (16,))


def bare(protocol: str, answer: bytes) -> Contestant:
    """It answers what the agent has answered."""
    found = wire.head(answer)
    assert found
    kept = peers.CACHE / f"tiny-{protocol}.answer"
    kept.write_bytes(answer[found[1] : found[2]])
    environment = {"BENCH_ANSWER": str(kept)}
    if length := re.search(rf"{wire.LENGTH}: *(\d+)".encode(), answer[: found[1]], re.IGNORECASE):
        environment["BENCH_HEADER_LENGTH"] = length[1].decode()
    options = ["--port", "{port}", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", "bench.bare:app", *options, "--log-level", "warning"]
    server = Server(name=BARE, command=command, environment=environment, folder=peers.ROOT)
    return Contestant(BARE, server, (protocol,))


def measure(asked: Case, args: argparse.Namespace) -> Found:
    """Both in turns."""
    found: Found = {}
    ours = Contestant(AGENT, servers.untuned_agent(AUTOGLM_MODEL=str(asked.path)), ("http", "json"))
    with servers.started(ours.server, contestants.answers(ours, asked, ours.protocols)) as agent:
        for protocol in ours.protocols:
            answer = contestants.by_http(agent.port, wire.request(asked, protocol, agent.port))
            other = bare(protocol, answer)
            what = wrk.script(peers.CACHE / f"tiny-{protocol}.lua", *wire.body(asked, protocol))
            with servers.started(other.server, contestants.answers(other, asked, (protocol,))) as plain:
                for _ in range(args.rounds):
                    for name, running in ((AGENT, agent), (BARE, plain)):
                        url = f"http://127.0.0.1:{running.port}/v2/models/tiny/infer"
                        before = running.cpu_s()
                        figures = wrk.run(url, what, args.clients, args.seconds)
                        cpu_us = 1e6 * (running.cpu_s() - before) / figures["requests"]
                        figures["server_us"] = cpu_us
                        found.setdefault((protocol, name), []).append(figures)
    return found


def row(found: Found, protocol: str, name: str) -> list[str]:
    of = found[protocol, name]
    return [
        BY[protocol],
        name,
        spread([figures["per_s"] for figures in of], "{:.0f}".format),
        spread(_ratios(found, protocol), "{:.2f}".format) if name == AGENT else "",
        *(f"{median(figures[one] for figures in of):.2f}" for one in ("p50", "p99")),
        f"{median(figures['server_us'] for figures in of):.0f}",
        f"{sum(figures['errors'] for figures in of):.0f}",
    ]


def _ratios(found: Found, protocol: str) -> list[float]:
    both = zip(found[protocol, AGENT], found[protocol, BARE], strict=True)
    return [ours["per_s"] / theirs["per_s"] for ours, theirs in both]


def main() -> None:
    args = _arguments()
    wrk.check()
    console = report.console(args.json)
    report.warn_of_company(console)
    with console.status("This agent and a bare uvicorn application, in turns"):
        found = measure(model(peers.CACHE), args)
    how = f"{args.clients} connections, {args.rounds} rounds of {args.seconds} s"
    notes = [f"{machine()}, {os.cpu_count()} cores; {how}; medians (least–greatest)"]
    rows = [row(found, *kind) for kind in found]
    table = Table(*HEADS)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    console.print("\n".join(notes), highlight=False)
    for protocol in dict.fromkeys(protocol for protocol, _ in found):
        ratios = _ratios(found, protocol)
        what = f"{BY[protocol]}: {spread(ratios, '{:.2f}'.format)} of a bare application, at least {TARGET}"
        report.verdict(console, notes, median(ratios) >= TARGET, what)
    samples = [{"protocol": kind[0], "contestant": kind[1], "figures": of} for kind, of in found.items()]
    report.keep("tiny", notes, samples)
    report.end("tiny", console, [(HEADS, rows)], notes, as_json=args.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench tiny", description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="all samples on stdout; the table goes to stderr")
    return parser.parse_args()
