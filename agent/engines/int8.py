"""int8 copies of an ONNX file by onnxruntime's own tools, and how they do beside the original.

A process of its own, started by agent/quantize.py as `python -m agent.engines.int8 ORIGINAL FOLDER ...`. It
prints lines of JSON: {"phase": ...} as it goes, then {"original": rows/s, "made": [...]} or {"error": ...}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from agent.engines.engine import EngineError
from agent.engines.onnx import OnnxEngine
from agent.engines.tensors import Array
from agent.tensor_trial import BUDGET_S, Choice, Cost, Runs, in_turn, trials

WAYS: dict[str, list[str] | None] = {"MatMul and Gemm": ["MatMul", "Gemm"], "all operators": None}
ORIGINAL = -1  # its index beside those that are made
ROUNDS = 9  # of the last comparison
EXAMPLES = 32
RANGES = (
    256,
    2,
)  # of whole numbers in an example: the first that the model takes; they may be rows of a table
FIXED = {"attention_mask": 1, "token_type_ids": 0}  # by chance they would mean nothing: tokens are all there
PR_SET_PDEATHSIG = 1

Inputs = dict[str, Array]


def make(original: Path, folder: Path) -> list[dict[str, Any]]:
    """One for each of WAYS: its operators, and its file or what went wrong."""
    made: list[dict[str, Any]] = []
    copy = folder / "original.onnx"  # the tools write beside what they read
    shutil.copyfile(original, copy)
    for number, (operators, types) in enumerate(WAYS.items()):
        file = folder / f"int8-{number}.onnx"
        one: dict[str, Any] = {"operators": operators}
        try:
            quantize_dynamic(copy, file, op_types_to_quantize=types, weight_type=QuantType.QInt8)
            made.append({**one, "file": str(file)})
        except Exception as error:  # noqa: BLE001  (of onnx and onnxruntime, which have no common base)
            made.append(
                {**one, "error": f"onnxruntime's tool fails: {str(error)[:300] or type(error).__name__}"}
            )
    return made


def measure(original: Path, made: list[dict[str, Any]], settings: Choice, candidates: list[Choice]) -> float:
    """Rows a second of the original at its best cap; those of the others go into `made`, with how they agree
    and the share of rounds that each `won` against the original by the CPU's time.

    EngineError: the original itself does not run.
    """
    plain, all_runs = _at_its_best(original, settings, candidates)
    inputs = examples(plain)
    all_runs_by = {ORIGINAL: all_runs}
    for index, one in enumerate(made):
        if "file" not in one:
            continue
        try:
            engine, all_runs_by[index] = _at_its_best(Path(one["file"]), settings, candidates)
            one |= agreement(plain, engine, inputs)
        except EngineError as error:
            all_runs_by.pop(index, None)
            one["error"] = str(error)
    costs = in_turn(all_runs_by, ROUNDS, time.monotonic() + BUDGET_S)
    for index, one in enumerate(made):
        if index in costs:
            one["rows_per_s"] = _speed(costs[index])
            won = [mine.cpu < its.cpu for mine, its in zip(costs[index], costs[ORIGINAL], strict=True)]
            one["won"] = round(sum(won) / len(won), 2)
    return _speed(costs[ORIGINAL])


def _speed(costs: list[Cost]) -> float:
    """Rows a second, at its best."""
    return round(1 / min(one.wall for one in costs), 1)


def _at_its_best(path: Path, settings: Choice, candidates: list[Choice]) -> tuple[OnnxEngine, Runs]:
    def load(candidate: Choice) -> OnnxEngine:
        return OnnxEngine(str(path), {**settings, **candidate}, lambda _: None)

    timed: dict[int, float] = {}
    for index, seconds in trials(load, candidates, path.stat().st_size):
        if seconds is not None:
            timed[index] = seconds
    best = candidates[min(timed, key=lambda index: timed[index])] if timed else candidates[0]
    engine = load(best)
    return engine, Runs(engine, best["cap"], best["runners"])


def examples(engine: OnnxEngine) -> list[Inputs]:
    """Inputs by chance, the same each time, that the model takes. EngineError: it takes none."""
    names = [spec.name for spec in engine.info.outputs]
    likes = engine.example(1)
    most: dict[str, int] = {}
    for name in likes.keys() - FIXED.keys():
        like = likes[name]
        for most[name] in RANGES:
            try:
                engine.run({**likes, name: np.full_like(like, _top(like, most[name]))}, names)
                break
            except EngineError:
                continue
    chance = np.random.default_rng(0)
    return [
        {
            name: np.full_like(like, FIXED[name]) if name in FIXED else _example(like, most[name], chance)
            for name, like in likes.items()
        }
        for _ in range(EXAMPLES)
    ]


def _top(like: Array, range_: int) -> Any:
    """The largest number of a range that is also one of this kind."""
    if like.dtype.kind in "iu":
        return min(range_ - 1, int(np.iinfo(like.dtype.name).max))
    return like.flat[0] if like.size else 0


def _example(like: Array, range_: int, chance: np.random.Generator) -> Array:
    if like.dtype.kind in "iu":
        return chance.integers(0, _top(like, range_) + 1, like.shape).astype(like.dtype)
    if like.dtype.kind == "f":
        return chance.standard_normal(like.shape).astype(like.dtype)
    return chance.integers(0, 2, like.shape).astype(bool) if like.dtype.kind == "b" else like


def agreement(plain: OnnxEngine, other: OnnxEngine, inputs: list[Inputs]) -> dict[str, float | None]:
    """Of the outputs for these inputs: means of `cosine` and `top1`, the largest difference `max_abs`."""
    names = [spec.name for spec in plain.info.outputs]
    cosines, tops, differences = [], [], [0.0]
    for one in inputs:
        pairs = list(zip(plain.run(one, names), other.run(one, names), strict=True))
        cosines.append(min(_cosine(*pair) for pair in pairs))
        tops.append(_same_top(*pairs[0]))
        differences += [_difference(*pair) for pair in pairs]
    most = max(differences)
    return {
        "cosine": round(float(np.mean(cosines)), 5),
        "top1": round(float(np.mean(tops)), 3),
        "max_abs": most if np.isfinite(most) else None,
    }


def _comparable(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype.kind in "fiub" and b.dtype.kind in "fiub"


def _cosine(a: Array, b: Array) -> float:
    """1 for equals, also where both are nothing; 0 where they cannot be compared."""
    if np.array_equal(a, b):
        return 1.0
    if not _comparable(a, b):
        return 0.0
    left, right = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    value = float(left @ right) / lengths if lengths else 0.0
    return value if np.isfinite(value) else 0.0


def _difference(a: Array, b: Array) -> float:
    if not _comparable(a, b):
        return 0.0 if np.array_equal(a, b) else float("inf")
    most = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
    return most if np.isfinite(most) else float("inf")


def _same_top(a: Array, b: Array) -> bool:
    if not _comparable(a, b) or not a.size or not a.ndim:
        return bool(np.array_equal(a, b))
    return bool(np.array_equal(a.argmax(-1), b.argmax(-1)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="autoglm int8", description="Started by the agent.")
    parser.add_argument("original", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON")
    parser.add_argument("--candidates", type=json.loads, required=True, help="JSON")
    parser.add_argument("--memory", type=int, required=True, help="bytes that it may take")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with whoever started it
    Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (arguments.memory, arguments.memory))
    logging.disable()  # the tool's advice is for who calls it by hand
    try:
        print(json.dumps({"phase": "quantize"}), flush=True)
        made = make(arguments.original, arguments.folder)
        print(json.dumps({"phase": "measure"}), flush=True)
        speed = measure(arguments.original, made, arguments.settings, arguments.candidates)
        print(json.dumps({"original": speed, "made": made}), flush=True)
    except MemoryError:
        print(json.dumps({"error": f"it takes more than {arguments.memory / 1e6:,.0f} MB of memory"}))
    except EngineError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
