"""Tensors by the Open Inference Protocol: the real magika, Triton's own client, and what can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.http.wire import dial, exchange, head, post, until
from tests.support.agent import Agent
from tests.support.onnx_file import FLOAT, INT64, STRING, write_onnx
from tests.tooling.command import run

Rows = NDArray[np.int32]
TOLERANCE = 1e-5
"""Of probabilities: in a batch sums are taken in another order than alone."""


@pytest.fixture(scope="module")
def agent(
    start_agent: Callable[..., Agent], magika_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """One that serves magika, an echo of texts, and small models of all kinds."""
    agent = start_agent(AUTOGLM_MAX_BATCH_SIZE="64")
    folder = tmp_path_factory.mktemp("onnx")
    small = {
        "texts": {"inputs": [("x", STRING, (None,))], "outputs": [("y", STRING, (None,))]},
        "wide": {"inputs": [("x", FLOAT, (None, None))], "outputs": [("y", FLOAT, (None, None))]},
        "fixed": {"inputs": [("x", INT64, (2, 2))], "outputs": [("y", INT64, (2, 2))]},
        "sum": {"op": "Add", "inputs": [("a", FLOAT, (None, 2)), ("b", FLOAT, (None, 2))]},
    }
    agent.pull(magika_path, "magika")
    for name, how in small.items():
        agent.pull(write_onnx(folder / f"{name}.onnx", **how), name)
    return agent


@pytest.fixture(scope="module")
def alone(magika_path: Path) -> Callable[[Rows], NDArray[np.float32]]:
    """What onnxruntime itself makes of these rows."""
    session = ort.InferenceSession(magika_path, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"bytes": rows})[0]  # type: ignore[no-any-return]


@pytest.fixture
def client(agent: Agent) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{agent.port}", concurrency=32, network_timeout=60.0)


def rows(count: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).integers(0, 257, (count, 2048), np.int32)


def asked(values: Rows, binary: bool = True) -> list[triton.InferInput]:
    one = triton.InferInput("bytes", list(values.shape), "INT32")
    one.set_data_from_numpy(values, binary_data=binary)
    return [one]


def classify(agent: Agent, values: Rows) -> NDArray[np.float32]:
    """By a client of its own: Triton's may not be shared by threads."""
    with triton.InferenceServerClient(f"127.0.0.1:{agent.port}", network_timeout=60.0) as client:
        return client.infer("magika", asked(values)).as_numpy("target_label")  # type: ignore[no-any-return]


def infer(agent: Agent, model: str, body: Any) -> httpx.Response:
    return httpx.post(f"{agent.base_url}/v2/models/{model}/infer", json=body, timeout=60)


def test_tritons_client_sees_server_and_models(client: triton.InferenceServerClient, agent: Agent) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "open-autoglm-edge"
    about = client.get_model_metadata("magika")
    assert about["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}]
    assert about["outputs"] == [{"name": "target_label", "datatype": "FP32", "shape": [-1, 214]}]
    assert {row["name"] for row in client.get_model_repository_index()} >= {"echo", "magika", "texts"}
    assert not client.is_model_ready("nosuch")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_the_answer_is_onnxruntimes_own(
    client: triton.InferenceServerClient,
    alone: Callable[[Rows], NDArray[np.float32]],
    binary_in: bool,
    binary_out: bool,
) -> None:
    values = rows(3)
    wanted = [triton.InferRequestedOutput("target_label", binary_data=binary_out)]
    answer = client.infer("magika", asked(values, binary_in), outputs=wanted, request_id="mine")
    assert answer.get_response()["id"] == "mine"
    np.testing.assert_allclose(answer.as_numpy("target_label"), alone(values), atol=TOLERANCE)


def test_many_callers_at_once_each_get_their_own_rows(
    agent: Agent, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    values = [rows(1 + at % 3, at) for at in range(96)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda one: classify(agent, one), values))
    for given, answer in zip(values, answers, strict=True):
        np.testing.assert_allclose(answer, alone(given), atol=TOLERANCE)


def test_requests_of_other_shapes_are_never_mixed(agent: Agent) -> None:
    def ask(width: int) -> Any:
        body = {
            "inputs": [{"name": "x", "shape": [1, width], "datatype": "FP32", "data": [float(width)] * width}]
        }
        return infer(agent, "wide", body).json()["outputs"][0]

    with ThreadPoolExecutor(24) as pool:
        for width, answer in zip(range(1, 25), pool.map(ask, range(1, 25)), strict=True):
            assert (answer["shape"], answer["data"]) == ([1, width], [float(width)] * width)


def test_texts_come_back_as_they_went(agent: Agent, client: triton.InferenceServerClient) -> None:
    words = np.array(["", "Gruß", "日本語", "a" * 1000], object)
    one = triton.InferInput("x", [4], "BYTES")
    one.set_data_from_numpy(words)
    assert [word.decode() for word in client.infer("texts", [one]).as_numpy("y")] == list(words)
    one.set_data_from_numpy(np.array([b"\xff", b"", b"", b""], object))
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        client.infer("texts", [one])
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["x", "é"]}]}
    assert infer(agent, "texts", body).json()["outputs"][0]["data"] == ["x", "é"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_whole_however_it_comes(agent: Agent, chunked: bool) -> None:
    """In pieces around those in which it is read; and the next one by the same connection."""
    values = np.arange(150_000, dtype=np.float32)
    about = {"name": "x", "datatype": "FP32", "shape": [1, values.size]}
    one = {"inputs": [about | {"parameters": {"binary_data_size": values.nbytes}}]}
    top = json.dumps(one | {"parameters": {"binary_data_output": True}}).encode()
    body = top + values.tobytes()
    lines = (
        f"Inference-Header-Content-Length: {len(top)}",
        ("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"),
    )
    with dial(agent) as client:
        for size in (1_000, 262_144, 262_145, 400_000, 10**6):
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
            if chunked:
                pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
            answer = exchange(client, [head("/v2/models/wide/infer", *lines), *pieces])
            assert answer.status == 200, answer.body
            begin = int(answer.headers["inference-header-content-length"])
            assert answer.body[begin:] == values.tobytes()


def test_a_caller_who_leaves_is_let_go(agent: Agent) -> None:
    classify(agent, rows(1))
    (worker,) = [one["worker"]["pid"] for one in agent.status()["models"] if one["name"] == "magika"]
    os.kill(worker, signal.SIGSTOP)
    try:
        with dial(agent) as client:
            body = {
                "inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [7] * 2048}]
            }
            client.sendall(post("/v2/models/magika/infer", body))
            until(lambda: agent.status()["running"] == 1, "it runs")
        until(lambda: agent.status()["running"] == 0, "it is let go")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert 'route="/v2/models/{model}/infer",status="499"' in httpx.get(f"{agent.base_url}/metrics").text


def test_a_model_without_a_batch_axis_is_run_one_by_one(agent: Agent) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [[1, 2], [3, 4]]}]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: infer(agent, "fixed", body).json(), range(16)))
    assert all(answer["outputs"][0]["data"] == [1, 2, 3, 4] for answer in answers)


def test_a_compressed_body_is_read(agent: Agent, client: triton.InferenceServerClient) -> None:
    answer = client.infer("magika", asked(rows(1)), request_compression_algorithm="gzip")
    assert answer.as_numpy("target_label").shape == (1, 214)
    bomb = gzip.compress(bytes(20_000_000))
    headers = {"content-encoding": "gzip"}
    refused = httpx.post(f"{agent.base_url}/v2/models/magika/infer", content=bomb, headers=headers)
    assert refused.status_code == 413


ONE = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
WRONG = {
    "no inputs": ({"inputs": []}, 400, "1 to 1024 inputs"),
    "no JSON": (None, 400, "not an inference request"),
    "no shape": ({"inputs": [{"name": "x", "datatype": "FP32"}]}, 400, "shape"),
    "no data": ({"inputs": [{**ONE, "data": None}]}, 400, "has no data"),
    "another name": ({"inputs": [{**ONE, "name": "z"}]}, 400, "input 'x' is missing"),
    "one too many": ({"inputs": [ONE, {**ONE, "name": "z"}]}, 400, "no input 'z'"),
    "twice": ({"inputs": [ONE, ONE]}, 400, "given twice"),
    "another datatype": ({"inputs": [{**ONE, "datatype": "INT64", "data": [1, 2]}]}, 400, "must be of FP32"),
    "an unknown datatype": ({"inputs": [{**ONE, "datatype": "FP4"}]}, 400, "not known"),
    "another rank": ({"inputs": [{**ONE, "shape": [2]}]}, 400, "must have the shape"),
    "too few values": ({"inputs": [{**ONE, "data": [1.0]}]}, 400, "1 values, and its shape asks for 2"),
    "a text among numbers": ({"inputs": [{**ONE, "data": [1.0, "x"]}]}, 400, "no FP32"),
    "ragged data": ({"inputs": [{**ONE, "data": [1.0, [2.0]]}]}, 400, "side by side"),
    "a negative size": ({"inputs": [{**ONE, "shape": [-1, -2]}]}, 400, "impossible shape"),
    "a huge shape": ({"inputs": [{**ONE, "shape": [1 << 40, 1 << 40]}]}, 400, "elements"),
    "twenty dimensions": ({"inputs": [{**ONE, "shape": [1] * 20}]}, 400, "impossible shape"),
    "too many rows": ({"inputs": [{**ONE, "shape": [65, 1], "data": [0.0] * 65}]}, 400, "at most 64"),
    "an unknown output": ({"inputs": [ONE], "outputs": [{"name": "q"}]}, 400, "no output 'q'"),
    "a priority of 10": ({"inputs": [ONE], "parameters": {"priority": 10}}, 400, "priority"),
    "binary data without any": (
        {"inputs": [{**ONE, "data": None, "parameters": {"binary_data_size": 8}}]},
        400,
        "0 bytes are left",
    ),
}


@pytest.mark.parametrize(("body", "status", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_in_the_protocols_own_shape(
    agent: Agent, body: Any, status: int, says: str
) -> None:
    content = b"\x93NUMPY rubbish" if body is None else json.dumps(body).encode()
    answer = httpx.post(f"{agent.base_url}/v2/models/wide/infer", content=content, timeout=60)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("head", "raw", "says"),
    [
        ({"binary_data_size": 8}, bytes(7), "7 bytes are left"),
        ({"binary_data_size": 8}, bytes(9), "1 bytes behind the tensors"),
        ({"binary_data_size": 4}, bytes(4), "4 bytes, and its shape asks for 8"),
        ({"binary_data_size": -1}, b"", "binary_data_size"),
        ({"binary_data_size": "8"}, bytes(8), "binary_data_size"),
    ],
)
def test_raw_bytes_that_do_not_add_up_are_told(
    agent: Agent, head: dict[str, Any], raw: bytes, says: str
) -> None:
    one = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": head}
    start = json.dumps({"inputs": [one]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(start))}
    answer = httpx.post(f"{agent.base_url}/v2/models/wide/infer", content=start + raw, headers=headers)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "0", "999999", "9" * 5000])
def test_a_header_length_that_cannot_be_is_told(agent: Agent, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"{agent.base_url}/v2/models/wide/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_inputs_that_the_model_itself_refuses_cost_their_neighbours_nothing(agent: Agent) -> None:
    def ask(other: list[int]) -> httpx.Response:
        inputs = [
            {"name": name, "shape": shape, "datatype": "FP32", "data": [1.0] * (shape[0] * shape[1])}
            for name, shape in (("a", [1, 2]), ("b", other))
        ]
        return infer(agent, "sum", {"inputs": inputs})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [[1, 2], [3, 2]] * 8))
    assert [answer.status_code for answer in answers[::2]] == [200] * 8
    assert all(answer.status_code in (200, 400) for answer in answers[1::2])
    assert agent.metric("worker_restarts_total") == 0


def test_an_unknown_model_and_one_that_generates_text_are_told(agent: Agent) -> None:
    missing = infer(agent, "nosuch", {"inputs": [ONE]})
    assert (missing.status_code, "not on this node" in missing.json()["error"]) == (404, True)
    text = infer(agent, "echo", {"inputs": [ONE]})
    assert (text.status_code, "generates text" in text.json()["error"]) == (400, True)
    chat = agent.chat("hello", model="magika")
    assert (chat.status_code, "/v2/models/magika/infer" in chat.json()["error"]["message"]) == (400, True)


def test_a_timeout_in_microseconds_is_kept(agent: Agent, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer("magika", asked(rows(64)), timeout=1)


def test_the_status_on_the_terminal_shows_models_of_both_kinds(agent: Agent) -> None:
    classify(agent, rows(1))
    told = run("status", AUTOGLM_DATA_DIR=str(agent.data_dir))
    assert told.returncode == 0, told.stderr
    assert "onnx on cpu" in told.stdout
    assert "echo on cpu, 64 slots" in told.stdout


def test_an_unload_while_it_is_busy_costs_no_answer(
    agent: Agent, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    transport = httpx.HTTPTransport(uds=str(agent.socket))
    values = [rows(4, at) for at in range(24)]
    with (
        ThreadPoolExecutor(24) as pool,
        httpx.Client(transport=transport, base_url="http://agent", timeout=60) as admin,
    ):
        waiting = [pool.submit(classify, agent, one) for one in values]
        while agent.metric("num_requests_running") < 8:
            time.sleep(0.005)
        assert admin.post("/v2/repository/models/magika/unload", json={}).status_code == 200
        for given, answer in zip(values, waiting, strict=True):
            np.testing.assert_allclose(answer.result(), alone(given), atol=TOLERANCE)


def test_a_worker_that_dies_costs_no_answer(
    agent: Agent, alone: Callable[[Rows], NDArray[np.float32]]
) -> None:
    classify(agent, rows(1))
    (worker,) = [one["worker"]["pid"] for one in agent.status()["models"] if one["name"] == "magika"]
    values = [rows(16, at) for at in range(32)]
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(classify, agent, one) for one in values]
        while agent.metric("num_requests_running") < 8:
            time.sleep(0.005)
        os.kill(worker, signal.SIGKILL)
        for given, answer in zip(values, waiting, strict=True):
            np.testing.assert_allclose(answer.result(), alone(given), atol=TOLERANCE)
    assert agent.metric("request_rerun_total") >= 1
