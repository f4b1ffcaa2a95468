"""`python -m bench cloud`: what one controller holds, on PostgreSQL and SQLite, without TLS and with it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.cloud import day
from bench.cloud.enrol import KEY, enrol
from bench.cloud.fleet import Spec
from bench.servers import tree
from tests.support.controller import Controller
from tests.support.postgres import Postgres

HEADS = ("what", "nodes", "reports/s", "p50 ms", "p99 ms", "bad", "controller µs", "database µs")
TICKS = os.sysconf("SC_CLK_TCK")
PLAIN = {"AUTOGLM_CLOUD_TLS": "false", "AUTOGLM_CLOUD_PROXIES": "127.0.0.1"}
TLS_NODES = 300


class Fleet:
    """The simulated fleet's process; it tells what it does in lines of JSON."""

    def __init__(self, kind: str, spec: Spec) -> None:
        command = [sys.executable, "-m", "bench.cloud.fleet", kind, json.dumps(asdict(spec))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fleet ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def enough(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


class Scene:
    """A controller, its database, and nodes that have joined it."""

    def __init__(self, folder: Path, postgres: Postgres | None, nodes: int, **settings: str) -> None:
        self.postgres, self.folder = postgres, folder
        database = {"AUTOGLM_CLOUD_DATABASE_URL": postgres.database()} if postgres else {}
        self.controller = Controller(folder, {**settings, **database})
        try:
            self.controller.start()
        except AssertionError:  # it does not answer: it is not left behind
            self.controller.stop()
            raise
        url = database.get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{folder / 'controller.db'}")
        self.certificates = folder / "certificates.json"
        self.certificates.write_text(json.dumps(enrol(folder, url, nodes)))

    def spec(self, **more: Any) -> Spec:
        tls = {"ca": str(self.folder / "ca.pem"), "key": str(self.folder / KEY)}
        found = {} if self.controller.environment.get("AUTOGLM_CLOUD_TLS") == "false" else tls
        return Spec(self.controller.port, str(self.certificates), **found, **more)

    def cpu_s(self) -> tuple[float, float]:
        """Of the controller, and of PostgreSQL."""
        assert self.controller.process is not None
        own = _cpu_s([self.controller.process.pid])
        return own, _cpu_s(tree(self.postgres.pid)) if self.postgres else 0.0

    def resident_mb(self) -> float:
        assert self.controller.process is not None
        status = Path(f"/proc/{self.controller.process.pid}/status").read_text()
        [line] = [one for one in status.splitlines() if one.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def configure(self, **settings: Any) -> None:
        with self.controller.client() as client:
            answer = client.patch(
                "/api/v1/config", json={"selector": "all", "settings": settings}, timeout=120
            )
            answer.raise_for_status()


def _cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


@contextlib.contextmanager
def scene(postgres: Postgres | None, nodes: int, **settings: str) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="autoglm-bench-") as folder:
        one = Scene(Path(folder), postgres, nodes, **settings)
        try:
            yield one
        finally:
            one.controller.stop()


def reports(name: str, one: Scene, nodes: int, rate: float, seconds: float) -> list[str]:
    fleet = Fleet("reports", one.spec(rate=rate, seconds=seconds))
    fleet.hear()
    fleet.hear()
    before = one.cpu_s()
    told = fleet.hear()
    cpu = [after - begun for after, begun in zip(one.cpu_s(), before, strict=True)]
    cut = statistics.quantiles(told["latencies"], n=100)
    each = [f"{1e6 * used / told['total']:.0f}" for used in cpu]
    return [
        name,
        str(nodes),
        f"{rate:.0f}",
        f"{1e3 * cut[49]:.1f}",
        f"{1e3 * cut[98]:.1f}",
        str(told["bad"]),
        *each,
    ]


def hints(one: Scene, nodes: int) -> list[str]:
    empty = one.resident_mb()
    fleet = Fleet("hints", one.spec())
    fleet.hear()
    assert fleet.hear()["listening"] == nodes
    each_kb = 1024 * (one.resident_mb() - empty) / nodes
    begun = time.monotonic()
    one.configure(priority=3)
    answered = time.monotonic() - begun
    time.sleep(max(5.0, 2 * answered))
    fleet.enough()
    heard = sorted(at - begun for at in fleet.hear()["events"])
    last = f"{heard[-1]:.2f} s" if heard else "never"
    return [
        f"{nodes} streams: a change of all is answered after {answered:.2f} s; {len(heard)} heard,"
        f" half of them after {statistics.median(heard) if heard else 0:.2f} s and the last after {last};"
        f" {each_kb:.0f} kB of memory each"
    ]


def handshakes(one: Scene, nodes: int) -> tuple[Fleet, str]:
    before, empty = one.cpu_s()[0], one.resident_mb()
    fleet = Fleet("hints", one.spec())
    seconds = fleet.hear()["connected_s"]
    cpu_ms = 1e3 * (one.cpu_s()[0] - before) / nodes
    fleet.hear()
    each_kb = 1024 * (one.resident_mb() - empty) / nodes
    return fleet, (
        f"mutual TLS: {nodes / seconds:.0f} connections/s, each {cpu_ms:.1f} ms of the controller's CPU;"
        f" {each_kb:.0f} kB of memory for each stream of hints"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cloud", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between a node's reports")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--only", choices=("postgresql", "sqlite", "tls", "day"), help="one part")
    args = parser.parse_args()
    console = Console(width=160)
    table = Table(*HEADS, title=f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} from elsewhere too")
    lines: list[str] = []
    wanted = (args.only,) if args.only else ("postgresql", "sqlite", "tls", "day")
    postgres = Postgres() if {"postgresql"} & set(wanted) else None
    try:
        if postgres:
            with scene(postgres, args.nodes, **PLAIN) as one:
                rate = args.nodes / args.every
                table.add_row(*reports("PostgreSQL", one, args.nodes, rate, args.seconds))
                lines += hints(one, args.nodes)
        if "sqlite" in wanted:
            for rate in (100, 200, args.nodes / args.every):
                with scene(None, args.nodes // 10, **PLAIN) as one:
                    table.add_row(*reports("SQLite", one, args.nodes // 10, rate, args.seconds / 2))
        if "tls" in wanted:
            with scene(None, TLS_NODES) as one:
                fleet, said = handshakes(one, TLS_NODES)
                lines.append(said)
                fleet.enough()
                fleet.hear()
                table.add_row(*reports("SQLite, mutual TLS", one, TLS_NODES, 100, args.seconds / 2))
        if "day" in wanted:
            lines += day.measure()
    finally:
        if postgres:
            postgres.stop()
    console.print(table)
    for line in lines:
        console.print(line, markup=False)
