"""What is wrong with a call is told by its status, and the next call is answered as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.grpc.conftest import address
from tests.support.agent import Agent

INFER = "/inference.GRPCInferenceService/ModelInfer"
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED

ONE = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
DATA = {"contents": {"fp32_contents": [1.0, 2.0]}}
RAW = {"raw_input_contents": [bytes(8)]}


def request(**fields: Any) -> Any:
    return service_pb2.ModelInferRequest(**{"model_name": "wide", **fields})


def raw(fields: dict[str, Any], data: bytes) -> Any:
    return request(inputs=[{**ONE, **fields}], raw_input_contents=[data])


def param(kind: str, value: Any) -> Any:
    return service_pb2.InferParameter(**{kind: value})


WRONG = {
    "no inputs": (request(), "1 to 1024 inputs"),
    "no data": (request(inputs=[ONE]), "0 values, and its shape asks for 2"),
    "another name": (request(inputs=[{**ONE, "name": "z"}], **RAW), "input 'x' is missing"),
    "twice": (request(inputs=[{**ONE, **DATA}] * 2), "given twice"),
    "another datatype": (raw({"datatype": "INT64"}, bytes(16)), "must be of FP32"),
    "an unknown datatype": (request(inputs=[{**ONE, "datatype": "FP4"}], **RAW), "not known"),
    "another rank": (request(inputs=[{**ONE, "shape": [2]}], **RAW), "must have the shape"),
    "too few bytes": (raw({}, bytes(7)), "7 bytes, and its shape asks for 8"),
    "too few tensors": (request(inputs=[ONE, ONE], **RAW), "one for each of 2 inputs"),
    "too many tensors": (request(inputs=[ONE], raw_input_contents=[bytes(8)] * 2), "has 2 elements"),
    "raw and typed": (request(inputs=[{**ONE, **DATA}], **RAW), "contents beside raw_input_contents"),
    "the wrong field": (
        request(inputs=[{**ONE, "contents": {"int_contents": [1, 2]}}]),
        "sent in fp32_contents",
    ),
    "typed FP16": (request(inputs=[{**ONE, **DATA, "datatype": "FP16"}]), "raw_input_contents alone"),
    "INT8 of 300": (
        request(inputs=[{**ONE, "datatype": "INT8", "contents": {"int_contents": [300, 1]}}]),
        "no INT8",
    ),
    "a negative size": (request(inputs=[{**ONE, "shape": [-1, -2]}], **RAW), "impossible shape"),
    "a huge shape": (request(inputs=[{**ONE, "shape": [1 << 40, 1 << 40]}], **RAW), "elements"),
    "twenty dimensions": (request(inputs=[{**ONE, "shape": [1] * 20}], **RAW), "impossible shape"),
    "too many rows": (raw({"shape": [5, 1]}, bytes(20)), "at most 4"),
    "BYTES that do not add up": (
        raw({"shape": [1], "datatype": "BYTES"}, b"\xff\0\0\0x"),
        "longer than what is left",
    ),
    "an unknown output": (request(inputs=[ONE], outputs=[{"name": "q"}], **RAW), "no output 'q'"),
    "a classification": (
        request(
            inputs=[ONE],
            outputs=[{"name": "y", "parameters": {"classification": param("int64_param", 3)}}],
            **RAW,
        ),
        "classification",
    ),
    "shared memory": (
        request(inputs=[{**ONE, "parameters": {"shared_memory_region": param("string_param", "r")}}]),
        "shared_memory_region",
    ),
    "a priority of 10": (
        request(inputs=[ONE], parameters={"priority": param("uint64_param", 10)}, **RAW),
        "priority",
    ),
    "a priority without a value": (request(inputs=[ONE], parameters={"priority": {}}, **RAW), "priority"),
    "a timeout in words": (
        request(inputs=[ONE], parameters={"timeout": param("string_param", "soon")}, **RAW),
        "timeout",
    ),
    "a model of text": (request(model_name="echo", inputs=[ONE], **RAW), "generates text"),
}  # fmt: skip


@pytest.fixture
def still_serving(channel: grpc.Channel) -> Iterator[Any]:
    """The stub; after the test it answers as ever."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    yield stub
    assert list(stub.ModelInfer(request(inputs=[ONE], **RAW)).raw_output_contents) == [bytes(8)]


@pytest.mark.parametrize(("wrong", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told(still_serving: Any, wrong: Any, says: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        still_serving.ModelInfer(wrong)
    error: Any = caught.value
    assert (error.code(), says in error.details()) == (INVALID, True), error


def test_bytes_that_are_no_message_are_the_callers_mistake(still_serving: Any, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(b"\xff rubbish")
    error: Any = caught.value
    assert (error.code(), "not a ModelInferRequest" in error.details()) == (INVALID, True)
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    first, second = stream(iter([b"\xff rubbish", request(inputs=[ONE], **RAW).SerializeToString()]))
    told = service_pb2.ModelStreamInferResponse.FromString
    assert "not a ModelInferRequest" in told(first).error_message
    assert not told(second).error_message


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_over_the_bound_is_refused_however_it_is_packed(
    still_serving: Any, channel: grpc.Channel, compression: grpc.Compression
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(bytes(9_000_000), compression=compression)
    error: Any = caught.value
    assert (error.code(), "larger than max" in error.details()) == (EXHAUSTED, True)


def test_a_load_of_what_is_not_here_or_with_files_of_the_callers_own_is_refused(
    guarded_grpc: Agent,
) -> None:
    with grpc.insecure_channel(address(guarded_grpc)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        boss = (("authorization", "Bearer key-boss"),)
        for fields, code in (
            ({"model_name": "nosuch"}, grpc.StatusCode.NOT_FOUND),
            ({"model_name": "wide", "parameters": {"config": {"string_param": "{}"}}}, INVALID),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(**fields), metadata=boss)
            assert caught.value.code() == code  # type: ignore[attr-defined]
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="nosuch")
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelUnload(unload, metadata=boss)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
