"""wrk, a load generator in C: what it sends, and what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def check() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")


def script(path: Path, content: bytes, headers: dict[str, str]) -> Path:
    """A file that has wrk POST this content, which lies beside it."""
    body = path.with_suffix(".body")
    body.write_bytes(content)
    lines = ['wrk.method = "POST"', f'wrk.body = io.open("{body}", "rb"):read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(url: str, what: Path, clients: int, seconds: int) -> dict[str, float]:
    how = ["-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "-s", str(what)]
    return read(subprocess.run(["wrk", *how, url], capture_output=True, text=True, check=True).stdout)


def read(said: str) -> dict[str, float]:
    """Figures from what wrk printed: requests a second, milliseconds, and answers that were none."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    count = re.search(r"(\d+) requests in", said)
    if rate is None or count is None:
        raise SystemExit(f"wrk says no rate:\n{said}")
    quantiles = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", said, re.MULTILINE))
    errors = re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", said)
    return {
        "requests": float(count[1]),
        "per_s": float(rate[1]),
        "p50": _milliseconds(quantiles["50"]),
        "p99": _milliseconds(quantiles["99"]),
        "errors": float(sum(map(int, errors))),
    }


def _milliseconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise SystemExit(f"wrk says a time of {text!r}")
    return float(found[1]) * _MS[found[2]]
