"""The ruler of the tensors' bench: requests, answers and figures are the same for every contestant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2 as oip

from agent.doors.inference_protocol.request import read
from bench.tensors import wire
from bench.tensors.cases import Case, case
from bench.tensors.contestants import AGENT, LITSERVE, MLSERVER
from bench.tensors.figures import Log, Window, summarise
from bench.tensors.limit import arrangements
from bench.tensors.measure import Sample
from bench.tensors.table import HEADS, LIMIT, rows
from bench.tensors.targets import verdicts
from tests.support.onnx_file import write_onnx


@pytest.fixture
def asked(tmp_path: Path) -> Case:
    return case("m", write_onnx(tmp_path / "m.onnx"), (3,))


@pytest.mark.parametrize("protocol", ["http", "json"])
def test_a_request_says_what_the_example_is(asked: Case, protocol: str) -> None:
    data = wire.request(asked, protocol, 8080)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(fields["Content-Length"]) == len(body)
    length = fields.get(wire.LENGTH)
    inference, wanted = read(body, int(length) if length else None, model="m", sender="")
    (tensor,) = inference.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (1, 3))
    assert tensor.data == asked.example().tobytes()
    assert wanted.raw("y") is (protocol == "http")


def test_a_message_says_what_the_example_is(asked: Case) -> None:
    message = oip.ModelInferRequest.FromString(wire.request(asked, "grpc", 8081))
    assert (message.model_name, list(message.inputs[0].shape)) == ("m", [1, 3])
    assert list(message.raw_input_contents) == [asked.example().tobytes()]


def response(headers: str, body: bytes, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_each_protocols_answer_is_read_alike(asked: Case) -> None:
    values = asked.example()
    raw, described = values.tobytes(), json.dumps({"outputs": [{"data": values.ravel().tolist()}]}).encode()
    answers = {
        "bytes": response("", raw),
        "json": response("", described),
        "http": response(f"inference-header-content-length: {len(described)}\r\n", described + raw),
        "grpc": oip.ModelInferResponse(raw_output_contents=[raw]).SerializeToString(),
    }
    for protocol, data in answers.items():
        assert asked.right(wire.answer(asked, protocol, data)), protocol  # the model is Identity


def test_a_wrong_answer_is_not_right(asked: Case) -> None:
    assert not asked.right(asked.example() + 0.1)


def test_what_is_no_success_is_refused(asked: Case) -> None:
    with pytest.raises(wire.Refused, match="overloaded"):
        wire.answer(asked, "json", response("", b"overloaded", 429))


def test_a_response_is_whole_when_its_body_is() -> None:
    data = response("x: y\r\n", b"12345")
    heads = [wire.head(data[:end]) for end in range(len(data) + 1)]
    begin = data.index(b"12345")
    assert heads == [None] * begin + [(200, begin, begin + 5)] * 6


def test_only_what_was_answered_in_the_window_counts() -> None:
    log = Log(errors=1)
    for started, ended in ((0.0, 0.9), (0.9, 1.1), (1.1, 1.5), (1.5, 2.1)):
        log.answered(started, ended)
    figures = summarise(log, Window(1.0, 2.0), load_s=0.001, rows=4)
    assert (figures.requests, figures.errors) == (8, 1)
    assert figures.per_s == pytest.approx(8)
    assert figures.p50 == pytest.approx(300)
    assert figures.load_us == pytest.approx(125)


def test_nothing_answered_is_an_error_and_not_a_figure() -> None:
    with pytest.raises(ValueError, match="no request"):
        summarise(Log(), Window(0.0, 1.0), 0.0)


def test_the_limit_is_tried_with_a_run_on_each_core_and_with_one_on_all() -> None:
    ways = {(how.runs, how.threads) for how in arrangements(2)}
    assert ways == {(1, 1), (1, 2), (2, 1)}
    assert {how.rows for how in arrangements(2)} == {1, 2, 4, 8, 16, 32}


def sample(name: str, protocol: str, clients: int, per_s: float, p50: float = 1.0) -> Sample:
    figures = {"per_s": per_s, "p50": p50, "p99": 2 * p50, "load_us": 20.0, "errors": 0.0}
    return Sample("text-direction", name, protocol, clients, figures)


ROUNDS = [
    sample(AGENT, "http", 32, 800),
    sample(AGENT, "http", 32, 900),
    sample(f"{MLSERVER}, x", "json", 32, 200),
    sample(f"{MLSERVER}, x", "json", 32, 150),
    sample(f"{LITSERVE}, x", "bytes", 32, 100),
    sample(LIMIT, "http", 32, 1000),
    sample(LIMIT, "http", 32, 1000),
    sample(LIMIT, "", 32, 1600),
    sample(AGENT, "http", 1, 500, p50=1.4),
    sample(LIMIT, "", 1, 1000, p50=1.0),
]


def test_ratios_are_of_the_same_rounds() -> None:
    of = {(row[1], row[2]): dict(zip(HEADS, row, strict=True)) for row in rows(ROUNDS) if row[0] == "32"}
    agent = of[AGENT, "HTTP, binary"]
    assert (agent["of limit"], agent["of it unburned"]) == ("0.85 (0.80–0.90)", "0.50")
    assert of[f"{MLSERVER}, x", "HTTP, JSON"]["agent over it"] == "5.00 (4.00–6.00)"
    assert of[LIMIT, "burned: HTTP, binary"]["of limit"] == ""


def test_a_verdict_says_what_was_asked_and_what_was_found() -> None:
    said = [(one.what.removeprefix("text-direction, "), one.met) for one in verdicts(ROUNDS)]
    assert said == [
        ("32 clients, http: of the limit beside its clients: 0.85 (0.80–0.90), at least 0.7", True),
        ("32 clients, http: over MLServer, x (json): 5.00 (4.00–6.00), at least 5.0", True),
        ("32 clients, http: over LitServe, x (bytes): 8.00, at least 5.0", True),
        ("1 client, http: p50 over the bare session's: 0.40 ms, at most 0.5", True),
    ]
    slower = [sample(AGENT, "http", 32, 600), *ROUNDS[2:4], sample(LIMIT, "http", 32, 1000)]
    assert [one.met for one in verdicts(slower)] == [False, False]
