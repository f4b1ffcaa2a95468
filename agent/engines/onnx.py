"""ONNX Runtime. Nothing else imports onnxruntime, and this only in a Worker.

Settings (a mapping): threads (of one run), runners (runs at once), spin (true: threads wait for each other by
spinning, within a run), gpu (false: the CPU alone), and where the Version has a pipeline: pipeline (as the
Manifest has it), folder (of its files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from agent.engines.engine import EngineError, Progress, TensorEngine, TensorInfo
from agent.engines.pipelines import wrapped
from agent.engines.tensors import Array, dtype
from models.onnx import TensorSpec

PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
PICTURE, TEXT = 224, 64  # sizes of a free dimension in a trial
_DEVICES = {"TensorrtExecutionProvider": "tensorrt", "CUDAExecutionProvider": "cuda"}
_TOO_NEW = re.compile(r"Opset (\d+) is under development.* till opset (\d+)", re.S)
_KINDS = {
    "tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(float16)": "FP16", "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(string)": "BYTES",
}  # fmt: skip


class OnnxEngine:
    """One session; `run` may be called from several threads at once."""

    def __init__(self, path: str, settings: Mapping[str, Any], progress: Progress) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = int(settings["threads"])
        options.inter_op_num_threads = 1
        # Threads that spin between runs take the cores from other runners, and from other Workers.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.get("spin", 0))))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        there = ort.get_available_providers()
        wanted = [one for one in PROVIDERS if one in there and (settings.get("gpu", True) or "CPU" in one)]
        try:
            self._session = ort.InferenceSession(path, options, providers=wanted)
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise EngineError(f"onnxruntime cannot load it: {_reason(error)}") from error
        progress(1.0)
        self.info = self._describe(settings)

    def example(self, rows: int) -> dict[str, Array]:
        return {spec.name: _example(spec, rows) for spec in self.info.inputs}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        try:
            given = {
                name: _texts(array) if array.dtype == object else array for name, array in inputs.items()
            }
            found: list[Array] = self._session.run(list(outputs), given)
        except EngineError:
            raise
        except Exception as error:  # as above: wrong shapes for this model, most likely
            raise EngineError(_first_line(error)) from error
        return found

    def close(self) -> None:
        del self._session

    def _describe(self, settings: Mapping[str, Any]) -> TensorInfo:
        used = self._session.get_providers()
        return TensorInfo(
            engine="onnx",
            device=_DEVICES.get(used[0], "cpu"),
            inputs=tuple(map(_spec, self._session.get_inputs())),
            outputs=tuple(map(_spec, self._session.get_outputs())),
            runners=int(settings["runners"]),
            details={
                "onnxruntime": ort.__version__,
                "providers": used,
                "threads": settings["threads"],
                "cap": settings.get("cap"),  # rows of a batch
            },
        )


def _spec(one: Any) -> TensorSpec:
    if one.type not in _KINDS:
        raise EngineError(f"{one.name} is of {one.type}, which cannot be served")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in one.shape)
    return TensorSpec(one.name, _KINDS[one.type], shape)


def _example(spec: TensorSpec, rows: int) -> Array:
    """Ones. A free dimension that is not the first is a picture's side, or a text's length."""
    free = PICTURE if len(spec.shape) == 4 else TEXT
    shape = [size or (rows if at == 0 else free) for at, size in enumerate(spec.shape)]
    kind = dtype(spec.datatype)
    return np.full(shape, b"" if spec.datatype == "BYTES" else 1, kind)


def _texts(array: Array) -> Array:
    """onnxruntime takes texts, not bytes."""
    texts = np.empty(array.size, object)
    try:
        texts[:] = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise EngineError("an element of a BYTES input is not UTF-8") from None
    return texts.reshape(array.shape)


def _reason(error: Exception) -> str:
    if found := _TOO_NEW.search(str(error)):
        opset, most = found.groups()
        return f"its opset is {opset}, and this onnxruntime knows up to {most}: export it for an older one"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


def load(path: str, settings: Mapping[str, Any], progress: Progress) -> TensorEngine:
    """EngineError: the model cannot be loaded."""
    return wrapped(OnnxEngine(path, settings, progress), settings)


def main() -> None:
    """Print what this onnxruntime can compute on: TensorRT, CUDA, CPU. Asked by `autoglm doctor`."""
    there = ort.get_available_providers()
    print(*[one.removesuffix("ExecutionProvider") for one in PROVIDERS if one in there])


if __name__ == "__main__":
    main()
