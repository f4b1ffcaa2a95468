"""Inference by Triton's own gRPC client: right answers, streams, and callers that wait no longer."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.grpc.conftest import Rows, address, asked, rows, stopped_worker, tensor, until_running
from tests.support.agent import Agent

Client = triton.InferenceServerClient
Alone = Callable[[Rows], NDArray[np.float32]]
TOLERANCE = 1e-5
"""Of probabilities: in a batch sums are taken in another order than alone."""


def test_many_callers_at_once_each_get_onnxruntimes_own_answer(grpc_agent: Agent, alone: Alone) -> None:
    values = [rows(1 + at % 3, at) for at in range(32)]
    with Client(address(grpc_agent)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: client.infer("magika", asked(one), request_id="mine"), values))
    for given, answer in zip(values, answers, strict=True):
        assert answer.get_response().id == "mine"
        assert answer.get_response().raw_output_contents
        np.testing.assert_allclose(answer.as_numpy("target_label"), alone(given), atol=TOLERANCE)


def test_texts_and_chosen_outputs_come_back(client: Client) -> None:
    words = np.array(["", "Gruß", "日本語", "a" * 1000], object)
    wanted = [triton.InferRequestedOutput("y")]
    answer = client.infer("texts", [tensor("x", [4], "BYTES", words)], outputs=wanted)
    assert [word.decode() for word in answer.as_numpy("y")] == list(words)


@pytest.mark.parametrize(
    ("model", "shape", "datatype", "contents", "raw"),
    [
        ("wide", [1, 2], "FP32", {"fp32_contents": [1.5, -2]}, np.array([1.5, -2], "f4").tobytes()),
        ("fixed", [2, 2], "INT64", {"int64_contents": [1, -2, 3, 4]}, np.array([1, -2, 3, 4]).tobytes()),
        ("texts", [2], "BYTES", {"bytes_contents": [b"x", b""]}, b"\1\0\0\0x\0\0\0\0"),
    ],
)
def test_typed_contents_say_the_same_as_raw_ones(
    channel: grpc.Channel, model: str, shape: list[int], datatype: str, contents: dict[str, Any], raw: bytes
) -> None:
    one = {"name": "x", "shape": shape, "datatype": datatype}
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    make = service_pb2.ModelInferRequest
    typed = infer(make(model_name=model, inputs=[{**one, "contents": contents}]))
    assert list(typed.raw_output_contents) == [raw]
    assert infer(make(model_name=model, inputs=[one], raw_input_contents=[raw])) == typed


@contextmanager
def conversation(client: Client) -> Iterator[queue.Queue[tuple[Any, Any]]]:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    yield heard
    client.stop_stream()


def test_a_stream_answers_in_the_order_of_its_requests_and_outlives_an_error(
    client: Client, alone: Alone
) -> None:
    quick = [tensor("x", [1, 2])]  # its answers overtake those of magika in the node
    slow = rows(2)
    with conversation(client) as heard:
        for at in range(40):
            model, inputs = ("magika", asked(slow)) if at % 4 == 0 else ("wide", quick)
            client.async_stream_infer(
                "nosuch" if at == 5 else model, inputs, request_id=str(at), enable_empty_final_response=True
            )
        for at in range(40):
            result, error = heard.get(timeout=30)
            if at == 5:
                assert "not on this node" in str(error)
                continue
            assert error is None
            assert result.get_response().id == str(at)
            assert result.get_response().parameters["triton_final_response"].bool_param
            if at % 4 == 0:
                np.testing.assert_allclose(result.as_numpy("target_label"), alone(slow), atol=TOLERANCE)
    assert heard.empty()


def test_a_caller_that_cancels_is_let_go(grpc_agent: Agent, client: Client) -> None:
    with stopped_worker(grpc_agent, client, "magika", asked(rows(1))):
        ended: queue.Queue[Any] = queue.Queue()
        call = client.async_infer("magika", asked(rows(1)), lambda result, error: ended.put(error))
        until_running(grpc_agent, 1)
        call.cancel()
        until_running(grpc_agent, 0)
        assert ended.get(timeout=10).status() == "StatusCode.CANCELLED"
    assert client.infer("magika", asked(rows(1))).as_numpy("target_label").shape == (1, 214)


def test_a_stream_that_is_cancelled_lets_all_of_its_requests_go(grpc_agent: Agent, client: Client) -> None:
    with stopped_worker(grpc_agent, client, "magika", asked(rows(1))):
        client.start_stream(lambda result, error: None)
        for _ in range(40):
            client.async_stream_infer("magika", asked(rows(1)))
        until_running(grpc_agent, 32)  # the others wait in the connection
        client.stop_stream(cancel_requests=True)
        until_running(grpc_agent, 0)
    assert client.infer("magika", asked(rows(1))).as_numpy("target_label").shape == (1, 214)


def test_a_deadline_of_the_call_or_in_the_request_ends_it(grpc_agent: Agent, client: Client) -> None:
    with stopped_worker(grpc_agent, client, "magika", asked(rows(1))):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("magika", asked(rows(1)), client_timeout=0.2)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        until_running(grpc_agent, 0)
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        client.infer("magika", asked(rows(4)), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.infer("magika", asked(rows(1))).as_numpy("target_label").shape == (1, 214)
