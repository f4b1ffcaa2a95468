"""A ModelInferRequest to an Inference, and Outputs to a ModelInferResponse."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.doors.grpc import oip_pb2 as pb
from agent.doors.grpc.asked import Asked
from agent.doors.inference_protocol import values
from agent.doors.inference_protocol.request import MOST_TENSORS, check_input, check_size, inference
from agent.errors import BadRequest
from agent.tensor import Data, Inference, Outputs, Tensor

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Which field holds the values of a datatype; FP16 has none."""


def read(found: Asked, remaining: float | None, *, model: str, sender: str) -> Inference:
    """`remaining`: how long the caller waits. Raises BadRequest."""
    request, raw = found.request, found.raw
    if not 0 < len(request.inputs) <= MOST_TENSORS or len(request.outputs) > MOST_TENSORS:
        raise BadRequest(f"a request has 1 to {MOST_TENSORS} inputs")
    if raw and len(raw) != len(request.inputs):
        count = len(request.inputs)
        raise BadRequest(f"raw_input_contents has {len(raw)} elements; one for each of {count} inputs is due")
    inputs = tuple(_tensor(one, raw[at] if raw else None) for at, one in enumerate(request.inputs))
    outputs = {one.name: parameters(one.parameters) for one in request.outputs}
    asked = inference(inputs, outputs, parameters(request.parameters), model=model, sender=sender)
    if remaining is None:
        return asked
    late = time.monotonic() + remaining
    return replace(asked, deadline=late if asked.deadline is None else min(late, asked.deadline))


def answer(id: str, model: str, version: str, outputs: Outputs) -> pb.ModelInferResponse:
    """Raw, as Triton's are."""
    make = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=model,
        model_version=version,
        id=id,
        outputs=[make(name=one.name, datatype=one.datatype, shape=one.shape) for one in outputs.tensors],
        raw_output_contents=[bytes(one.data) for one in outputs.tensors],
    )


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Their values; None where one has none."""
    found = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    return found


def _tensor(one: pb.ModelInferRequest.InferInputTensor, raw: Data | None) -> Tensor:
    name, datatype, shape = one.name[:100], one.datatype, tuple(one.shape)
    count = check_input(name, datatype, shape, parameters(one.parameters))
    if raw is None:
        raw = _typed(name, datatype, one.contents, count)
    elif one.HasField("contents"):
        raise BadRequest(f"input '{name}' has contents beside raw_input_contents: send one of them")
    check_size(name, datatype, raw, count)
    return Tensor(one.name, datatype, shape, raw)


def _typed(name: str, datatype: str, contents: pb.InferTensorContents, count: int) -> bytes:
    """The values of the field that fits the datatype; no other may have any. Raises BadRequest."""
    wanted = _CONTENTS.get(datatype)
    if wanted is None:
        raise BadRequest(f"input '{name}': {datatype} is sent by raw_input_contents alone")
    for field, _ in contents.ListFields():
        if field.name != wanted:
            raise BadRequest(f"input '{name}' has {field.name}; {datatype} is sent in {wanted}")
    found = getattr(contents, wanted)
    if datatype == "BYTES":
        return b"".join(len(one).to_bytes(4, "little") + one for one in found)
    return values.to_raw(name, datatype, list(found), count)
