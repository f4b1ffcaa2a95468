"""`autoglm pull --quantize`: an int8 Version of an ONNX model, if it is faster on this device and agrees.

Made and measured in a child process: neither the agent nor the command line loads native inference code.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from agent import device, footprint
from agent.config import Settings
from agent.free_memory import available
from agent.memory import NoMemory
from agent.space import Space
from models.errors import BadFile, ModelError
from models.format import external_files
from models.manifest import File
from models.onnx import read_header
from models.shelf import Shelf, Staged, Version
from models.sources import Progress, catalog, work
from models.sources.file import checked
from models.sources.progress import Meter

GAIN = 1.05  # times the original's speed, to be kept in its place: less is within what measurements vary by
WON = 0.8  # of the rounds against it, likewise: on a busy machine one lucky moment decides nothing
COSINE = 0.99  # between its outputs and the original's, to be kept
DEADLINE_S = 900.0  # for all of it
MEMORY = 8  # times the file's size, that onnx's tools may take at once

Decision = dict[str, Any]
"""`original` and `int8` in rows/s, `operators`, `agreement` {cosine, top1, max_abs}, `kept`, `why`."""


def check(source: str) -> None:
    """What can be told before anything is fetched. ModelError."""
    if importlib.util.find_spec("onnx") is None:
        raise ModelError("--quantize needs the onnx package: pip install 'open-autoglm-edge[quantize]'")
    entry = catalog.catalog().entry(source)
    if (entry.file if entry else source).endswith(".gguf"):
        raise _is_gguf(source)


async def better(
    version: Version, shelf: Shelf, settings: Settings, report: Callable[[Progress], None]
) -> tuple[Version, Decision]:
    """The better of an ONNX Version and its int8 copies, on the shelf, and why. Raises ModelError.

    What is not kept of the copies goes; the original stays on the shelf in any case.
    """
    trial = device.trial_of(settings, version.model, version.manifest.engine, {})
    if version.manifest.engine != "onnx" or trial is None:
        raise _is_gguf(version.model)
    if await asyncio.to_thread(_has_data, version):
        raise BadFile(
            f"{version.model} is on the shelf, but not quantised: its weights lie in other files, and"
            " onnxruntime's tools need them in its own: save it as one file"
        )
    need, there = footprint.TENSOR_PROCESS + MEMORY * version.size, available()
    if there < need:
        raise NoMemory(f"quantising {version.model}", Space(need), Space(there))
    meter, key = Meter(report), f"int8-{version.version}"
    async with work.working(shelf, key, meter) as folder:
        try:
            await asyncio.to_thread(work.make_room, shelf, 3 * version.size, f"quantising {version.model}")
            found = await _found(version, folder, trial, there, meter)
            decision, file = decide(found)
            return (await _kept(version, Path(file), shelf, meter) if file else version), decision
        finally:
            await asyncio.to_thread(work.finish, shelf, key)


def _has_data(version: Version) -> bool:
    return bool(external_files(version.manifest.files[0].path, read_header(version.path)))


async def _found(
    version: Version, folder: Path, trial: device.Trial, most: int, meter: Meter
) -> dict[str, Any]:
    """What the child says at its end."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "agent.engines.int8", str(version.path), str(folder)),
        *("--settings", json.dumps(trial.basic), "--candidates", json.dumps(trial.candidates)),
        *("--memory", str(most)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said: dict[str, Any] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert child.stdout is not None  # noqa: S101  (it is piped)
            async for line in child.stdout:
                said = json.loads(line)
                if "phase" in said:
                    meter(said["phase"])
            await child.wait()
    except TimeoutError:
        raise ModelError(
            f"{version.model} is on the shelf; quantising it took over {DEADLINE_S:g} s"
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if "original" not in said:
        why = said.get("error", f"the process ended with {child.returncode}")
        raise ModelError(f"{version.model} is on the shelf, but not quantised: {why}")
    return said


def decide(found: dict[str, Any]) -> tuple[Decision, str | None]:
    """From the child's findings: the decision, and the file that is kept, if any of its is."""
    plain = found["original"]
    measured = [one for one in found["made"] if "rows_per_s" in one]
    if not measured:
        why = "; ".join(f"int8 of {one['operators']}: {one['error']}" for one in found["made"])
        return {"original": plain, "int8": None, "agreement": None, "kept": "original", "why": why}, None
    best = max(measured, key=lambda one: (one["cosine"] >= COSINE, one["rows_per_s"]))
    agreement = {name: best[name] for name in ("cosine", "top1", "max_abs")}
    speed = f"{best['rows_per_s']:g} rows/s against the original's {plain:g}"
    agrees = best["cosine"] >= COSINE
    faster = best["rows_per_s"] > plain * GAIN and best["won"] >= WON
    if not agrees:
        why = f"its outputs differ too much (cosine {best['cosine']:g}, {COSINE:g} is wanted); {speed}"
    elif not faster:
        why = f"it is not surely faster here: {speed}, cheaper in {best['won']:.0%} of the rounds"
    else:
        why = f"it is faster here, {speed}, and agrees (cosine {best['cosine']:g})"
    decision = {
        **{"original": plain, "int8": best["rows_per_s"], "operators": best["operators"]},
        **{"agreement": agreement, "kept": "int8" if agrees and faster else "original"},
        "why": f"int8 of {best['operators']}: {why}",
    }
    return decision, best["file"] if agrees and faster else None


async def _kept(version: Version, made: Path, shelf: Shelf, meter: Meter) -> Version:
    fetched = await checked(made, meter)
    main = version.manifest.files[0]
    path = PurePosixPath(main.path)
    file = File(
        path=str(path.with_name(f"{path.stem[:200]}-int8.onnx")), size=fetched.size, sha256=fetched.sha256
    )
    return await asyncio.to_thread(
        shelf.add,
        version.model,
        [Staged(file, fetched.path), *(Staged(other, None) for other in version.manifest.files[1:])],
        engine="onnx",
        pipeline=version.manifest.pipeline,
        source=version.manifest.source,
        made_from=version.version,
    )


def _is_gguf(name: str) -> ModelError:
    return BadFile(
        f"{name} is a GGUF, which is quantised already: pull another quantisation of it where its repository"
        " has one (Q8_0, Q5_K_M, Q4_K_M, ...), as owner/repo:FILE.gguf"
    )
