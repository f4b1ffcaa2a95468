"""A model's configuration in Triton's words: what is in force, whoever chose it."""

from __future__ import annotations

from typing import Any

from agent.config import Settings
from agent.offered import Offered
from agent.tensor_lane import MOST_ROWS
from models.onnx import TensorSpec


def config(one: Offered, settings: Settings) -> dict[str, Any]:
    """`input` and `output` have no batch axis where `max_batch_size` is over 0, as Triton has it.

    A model of text has none of them.
    """
    told: dict[str, Any] = {"name": one.name, "platform": one.platform, "max_batch_size": 0}
    if not one.makes_tensors:
        return told | {"backend": "llama.cpp", "input": [], "output": []}
    settings = settings.of(one.name)
    told |= {
        "backend": "remote" if one.remote else "onnxruntime",
        "max_batch_size": (settings.max_batch_size or MOST_ROWS) if one.batches else 0,
        "input": [_tensor(spec, one.batches) for spec in one.inputs],
        "output": [_tensor(spec, one.batches) for spec in one.outputs],
    }
    if one.runners and one.info:
        kind = "KIND_CPU" if one.info.device == "cpu" else "KIND_GPU"
        told["instance_group"] = [{"name": f"{one.name}_0", "kind": kind, "count": one.runners}]
    if one.batches:
        told["dynamic_batching"] = _batching(one, settings)
    return told


def _batching(one: Offered, settings: Settings) -> dict[str, Any]:
    """The size that is best is found by a trial when the model is loaded, or set."""
    found = one.info.details.get("cap") if one.info else None
    best = settings.opt_batch_size or found
    return {
        "preferred_batch_size": [best] if best else [],
        "max_queue_delay_microseconds": round(settings.delay_ms * 1000),
    }


def _tensor(spec: TensorSpec, batches: bool) -> dict[str, Any]:
    dims = [-1 if size is None else size for size in spec.shape[1 if batches else 0 :]]
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    told: dict[str, Any] = {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims or [1]}
    return told if dims else told | {"reshape": {"shape": []}}  # Triton's way to say: a scalar
