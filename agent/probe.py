"""Which engine settings this device runs, and runs fastest: tried once for each Version, and remembered.

A build of llama.cpp may crash on this CPU (GCC 12 breaks AMX), and the fastest kind of KV cache differs from
one CPU to the next by up to a half. Neither can be known without trying, in a child process, since a trial
must not take the agent down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger()

Choice = dict[str, Any]


class Measured(NamedTuple):
    choice: Choice
    seconds: float | None  # that the trial's work cost with it; None: it was not timed


PACKAGES = {"llama": ("llama-cpp-python",), "onnx": ("onnxruntime", "onnxruntime-gpu")}

DEADLINE_S = 120.0  # for all trials of one child
TIMED_BYTES = 3 << 30  # larger models are only tried, not timed: it would take minutes
BETTER = 0.98  # of the first candidate's time, to be chosen in its place
WITHOUT = {"extra_bufts": False}  # neither AMX nor repacked weights: slow, and never broken


class Probes:
    """`choose` among candidate settings; answers are kept in a file beside the shelf, for `recall`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def choose(
        self,
        engine: str,
        path: str,
        size: int,
        settings: Choice,
        candidates: list[Choice],
        better: float = BETTER,
    ) -> Measured:
        """The best candidate that works, the first where none is `better`; {} where none works."""
        key = _key(engine, path, settings, candidates)
        known = await asyncio.to_thread(self._read)
        if key in known:
            return Measured(**known[key])
        settings = {**settings, "size": size}  # of all its files
        if size > TIMED_BYTES:
            candidates, settings = candidates[:1], {**settings, "brief": True}
        try:
            chosen = await self._try(engine, path, settings, candidates, better)
        except TimeoutError:
            log.warning("the engine's trial took too long: the first settings are used", **candidates[0])
            return Measured(candidates[0], None)
        with contextlib.suppress(OSError):  # a full disk: it is tried again next time
            await asyncio.to_thread(self._write, {**known, key: chosen._asdict()})
        log.info("engine settings chosen by trial", **chosen.choice)
        return chosen

    def recall(self, engine: str, path: str, settings: Choice, candidates: list[Choice]) -> Measured | None:
        """What `choose` found with these arguments; None: it was not asked yet."""
        known = self._read().get(_key(engine, path, settings, candidates))
        return Measured(**known) if known else None

    async def _try(
        self, engine: str, path: str, settings: Choice, candidates: list[Choice], better: float
    ) -> Measured:
        timed = await run_trials(engine, path, settings, candidates)
        if not timed:
            log.warning("the engine crashes with all of this CPU's features: trying without")
            timed = await run_trials(engine, path, {**settings, **WITHOUT}, candidates[:1])
            return Measured({**candidates[0], **WITHOUT} if timed else {}, timed.get(0))
        first = timed.get(0)
        best = min(timed, key=lambda index: timed[index])
        if first is not None and timed[best] > first * better:
            best = 0
        return Measured(candidates[best], timed[best])

    def _read(self) -> dict[str, Choice]:
        try:
            known: dict[str, Choice] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        # Entries of earlier agents have no measurement: what they are of is tried again.
        return {key: one for key, one in known.items() if one.keys() == {"choice", "seconds"}}

    def _write(self, known: dict[str, Choice]) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(known, indent=1))
        fresh.replace(self._file)


async def run_trials(engine: str, path: str, settings: Choice, candidates: list[Choice]) -> dict[int, float]:
    """Seconds of the same small work for each candidate that survives it, by index. TimeoutError.

    Of tensors: of a row; caps that cannot be best are left out.
    """
    timed: dict[int, float] = {}
    tried = 0
    while tried < len(candidates):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agent.worker", "probe", "--engine", engine, "--model", path),
            *("--settings", json.dumps(settings), "--candidates", json.dumps(candidates[tried:])),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                output, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        told = [json.loads(line) for line in output.splitlines()]
        timed.update({tried + at: seconds for at, seconds in told if seconds is not None})
        if child.returncode == 0:
            break
        tried += max((at for at, _ in told), default=-1) + 2  # the one after the last told is what it died of
    return timed


def _key(engine: str, path: str, settings: Choice, candidates: list[Choice]) -> str:
    """What an answer depends on; the whole path, since many a folder has a model.onnx."""
    return f"{path} {engine} {_software(engine)} {_cpu()} {json.dumps([settings, candidates])}"


def _software(engine: str) -> str:
    for package in PACKAGES.get(engine, ()):
        with contextlib.suppress(PackageNotFoundError):
            return version(package)
    return ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()
