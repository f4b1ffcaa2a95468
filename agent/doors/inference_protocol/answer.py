"""Outputs to a body of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.doors.inference_protocol import values
from agent.doors.inference_protocol.request import Wanted
from agent.tensor import Data, Outputs

_encode = msgspec.json.encode


def write(outputs: Outputs, wanted: Wanted, *, model: str, version: str) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where raw tensors follow it."""
    described: list[dict[str, Any]] = []
    raw: list[Data] = []
    for one in outputs.tensors:
        about: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": one.shape}
        if wanted.raw(one.name):
            about["parameters"] = {"binary_data_size": len(one.data)}
            raw.append(one.data)
        else:
            about["data"] = values.from_raw(one.datatype, one.data)
        described.append(about)
    head = {"model_name": model, "model_version": version} | ({"id": wanted.id} if wanted.id else {})
    data = _encode(head | {"outputs": described})
    return (b"".join([data, *raw]), len(data)) if raw else (data, None)
