"""The same request in each encoding, made once, and the answers read back. What is timed never comes here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as oip

from agent.engines.tensors import dtype
from bench.tensors.cases import Array, Case

PROTOCOLS = ("http", "json", "grpc", "bytes")
"""Open Inference Protocol with raw tensors, in JSON, and by gRPC (raw too); a bare body of bytes."""
METHOD = "/inference.GRPCInferenceService/ModelInfer"
LENGTH = "Inference-Header-Content-Length"


class Refused(Exception):
    """No answer, or not one of success."""


def request(case: Case, protocol: str, port: int) -> bytes:
    """All bytes of a request: of gRPC the message, else the whole of HTTP."""
    if protocol == "grpc":
        return _message(case)
    content, headers = body(case, protocol)
    path = "/infer" if protocol == "bytes" else f"/v2/models/{case.model}/infer"
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def body(case: Case, protocol: str) -> tuple[bytes, dict[str, str]]:
    """Of a request by HTTP, and its headers but for the length."""
    data = case.example()
    if protocol == "bytes":
        return data.tobytes(), {"Content-Type": "application/octet-stream"}
    one: dict[str, Any] = {"name": case.input.name, "datatype": case.input.datatype, "shape": case.shape}
    if protocol == "json":
        asked = {"inputs": [one | {"data": data.ravel().tolist()}]}
        return json.dumps(asked, separators=(",", ":")).encode(), {"Content-Type": "application/json"}
    raw = data.tobytes()
    one["parameters"] = {"binary_data_size": len(raw)}
    wanted = {"name": case.output.name, "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [one], "outputs": [wanted]}, separators=(",", ":")).encode()
    return head + raw, {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}


def _message(case: Case) -> bytes:
    one = oip.ModelInferRequest.InferInputTensor(
        name=case.input.name, datatype=case.input.datatype, shape=case.shape
    )
    raw = [case.example().tobytes()]
    message = oip.ModelInferRequest(model_name=case.model, inputs=[one], raw_input_contents=raw)
    data: bytes = message.SerializeToString()
    return data


def head(data: bytes) -> tuple[int, int, int] | None:
    """Of a response: its status, where its body begins, and where it ends. None: more bytes are needed."""
    begin = data.find(b"\r\n\r\n") + 4
    if begin < 4:
        return None
    lowered = data[:begin].lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        raise Refused(f"a response without its length: {data[:begin]!r}")
    length = int(lowered[at + 17 : lowered.index(b"\r\n", at + 2)])
    return int(data[9:12]), begin, begin + length


def answer(case: Case, protocol: str, data: bytes) -> Array:
    """The output of a whole response. Refused: there is none."""
    kind = dtype(case.output.datatype)
    if protocol == "grpc":
        return np.frombuffer(oip.ModelInferResponse.FromString(data).raw_output_contents[0], kind)
    found = head(data)
    if found is None or found[0] != 200:
        raise Refused(data[:500].decode(errors="replace"))
    content = data[found[1] : found[2]]
    if protocol == "bytes":
        return np.frombuffer(content, kind)
    if protocol == "json":
        return np.array(json.loads(content)["outputs"][0]["data"], kind)
    lowered = data[: found[1]].lower()
    at = lowered.index(f"\r\n{LENGTH}:".lower().encode()) + len(LENGTH) + 3
    return np.frombuffer(content[int(lowered[at : lowered.index(b"\r\n", at)]) :], kind)
