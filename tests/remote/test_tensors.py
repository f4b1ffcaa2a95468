"""A Model of tensors that another server runs, by the Open Inference Protocol."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.remote.conftest import admin, command, pull, until
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.onnx_file import FLOAT, INT64, STRING, write_onnx
from tests.support.upstream import Handler, Upstream

DESCRIBED = {
    "name": "theirs",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
}
LOCAL = {"floats": ("x", FLOAT, (None, 3)), "texts": ("x", STRING, (None,)), "numbers": ("x", INT64, (2, 2))}


def mirror(handler: Handler) -> None:
    """The inputs as outputs, in JSON."""
    handler.reply(200, {"model_name": "theirs", "outputs": handler.asked.body["inputs"]})


@pytest.fixture(scope="module")
def plain() -> Iterator[Upstream]:
    """A server without the binary tensor extension, whose model "theirs" gives back what it gets."""
    gets = {
        "/v2": {"name": "plain", "extensions": []},
        "/v2/models/theirs/ready": {"ready": True},
        "/v2/models/theirs": DESCRIBED,
    }
    one = Upstream(gets=gets, good=mirror).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def agent(
    start_agent: Callable[..., Agent], plain: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """One with models of its own, the same ones by way of its own HTTP door ("far-..."), and "plain"."""
    agent = start_agent(AUTOGLM_MAX_BATCH_SIZE="2", AUTOGLM_THREADS="1")
    folder = tmp_path_factory.mktemp("onnx")
    for name, (x, kind, shape) in LOCAL.items():
        file = write_onnx(folder / f"{name}.onnx", inputs=[(x, kind, shape)], outputs=[("y", kind, shape)])
        with admin(agent) as client:
            client.post("/api/pull", json={"source": str(file), "name": name})
        pull(agent, folder, f"far-{name}", engine="triton", url=agent.base_url, model=name)
    pull(agent, folder, "plain", engine="triton", url=plain.url, concurrency=2)
    return agent


@pytest.fixture(autouse=True)
def _well(plain: Upstream) -> None:
    plain.next()


def ask(agent: Agent, model: str, data: Any, datatype: str, *, binary: bool = True) -> triton.InferResult:
    with triton.InferenceServerClient(f"127.0.0.1:{agent.port}") as client:
        tensor = triton.InferInput("x", list(data.shape), datatype)
        tensor.set_data_from_numpy(data, binary_data=binary)
        return client.infer(model, [tensor], outputs=[triton.InferRequestedOutput("y", binary_data=binary)])


def post(agent: Agent, model: str, inputs: list[dict[str, Any]], **more: Any) -> httpx.Response:
    url = f"{agent.base_url}/v2/models/{model}/infer"
    return httpx.post(url, json={"inputs": inputs, **more}, timeout=30)


def x(data: Any, datatype: str = "FP32", shape: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    return [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "json"])
@pytest.mark.parametrize(
    ("model", "data", "datatype"),
    [
        ("floats", np.array([[1.5, -2, np.float32(1 / 3)], [0, 3e38, 1e-38]], np.float32), "FP32"),
        ("texts", np.array(["", "héllo 你好 🎉"], object), "BYTES"),
        ("numbers", np.array([[1, -(2**62)], [3, 4]]), "INT64"),
    ],
)
def test_tensors_come_back_as_they_do_from_there(
    agent: Agent, model: str, data: Any, datatype: str, binary: bool
) -> None:
    there = ask(agent, model, data, datatype, binary=binary).as_numpy("y")
    here = ask(agent, f"far-{model}", data, datatype, binary=binary).as_numpy("y")
    assert (here.shape, here.dtype, here.tolist()) == (there.shape, there.dtype, there.tolist())


def test_what_it_takes_and_makes_is_known_once_it_is_loaded(agent: Agent) -> None:
    command(agent, "far-floats", "unload")
    url = f"{agent.base_url}/v2/models/far-floats"
    assert httpx.get(url).json()["inputs"] == []
    assert command(agent, "far-floats", "load").status_code == 200
    told, theirs = httpx.get(url).json(), httpx.get(f"{agent.base_url}/v2/models/floats").json()
    assert (told["inputs"], told["outputs"]) == (theirs["inputs"], theirs["outputs"])
    assert told["platform"] == "remote_triton"


def test_what_the_server_refuses_is_told_in_its_words(agent: Agent) -> None:
    there, here = (post(agent, model, x([1, 2])) for model in ("floats", "far-floats"))
    assert (here.status_code, here.json()) == (there.status_code, there.json())
    assert here.status_code == 400
    assert "must have the shape" in here.json()["error"]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [1.5, -2.0]),
        ("FP16", [0.5, 2.0]),
        ("BOOL", [True, False]),
        ("UINT64", [2**64 - 1, 0]),
        ("INT8", [-128, 127]),
        ("BYTES", ["你好", ""]),
    ],
)
def test_a_server_without_the_binary_extension_gets_and_gives_json(
    agent: Agent, plain: Upstream, datatype: str, data: Any
) -> None:
    answer = post(agent, "plain", x(data, datatype), outputs=[{"name": "x"}])
    assert answer.json()["outputs"][0]["data"] == data
    sent = plain.asked[0].body
    assert sent["inputs"] == [{"name": "x", "datatype": datatype, "shape": [1, 2], "data": data}]
    assert sent["outputs"] == [{"name": "x"}]


def test_a_number_that_json_has_not_is_refused_where_the_server_takes_json_alone(
    agent: Agent, plain: Upstream
) -> None:
    raw = np.array([[np.nan, np.inf]], np.float32)
    with triton.InferenceServerClient(f"127.0.0.1:{agent.port}") as client:
        tensor = triton.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(raw)
        with pytest.raises(Exception, match="no NaN"):
            client.infer("plain", [tensor])
    assert not plain.asked


def test_what_may_be_better_soon_is_tried_again(agent: Agent, plain: Upstream) -> None:
    plain.next(does.status(503), does.status(503))
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 200
    assert len(plain.asked) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        b"no json",
        {"outputs": 5},
        {"outputs": x([1.0])},
        {"outputs": x(["a", "b"])},
        {"outputs": x([1.0, 2.0], "FP128")},
        {"outputs": x([1.0, 2.0], shape=(-1, -2))},
        {"outputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]},
        {"outputs": x([[1.0], [2.0, 3.0]])},
        {"outputs": x([300, 1], "INT8")},
        {"outputs": [{**x(None, shape=(0, 2**70))[0], "parameters": {"binary_data_size": 0}}]},
        {"outputs": [{**x([1.0, 2.0])[0], "name": "\ud800"}]},
    ],
    ids=["text", "kind", "few", "texts", "datatype", "shape", "raw", "ragged", "overflow", "axis", "name"],
)
def test_rubbish_ends_that_request_alone(agent: Agent, plain: Upstream, wrong: Any) -> None:
    plain.next(does.status(200, wrong))
    answer = post(agent, "plain", x([1.0, 2.0]))
    assert answer.status_code == 502, answer.text
    assert "outputs that are none" in answer.json()["error"]
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 200


def test_what_grows_too_large_for_a_frame_is_refused(agent: Agent, plain: Upstream) -> None:
    values = 9 << 20  # of 2 bytes there, and of 8 here
    told = {"name": "x", "datatype": "INT64", "shape": [values], "data": []}
    body = json.dumps({"outputs": [told]}).encode().replace(b"[]", b"[" + b"0," * (values - 1) + b"0]")
    plain.next(does.status(200, body))
    answer = post(agent, "plain", x([1.0, 2.0]))
    assert (answer.status_code, "at most" in answer.json()["error"]) == (502, True), answer.text
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 200


def test_no_more_are_there_at_once_than_was_said(agent: Agent, plain: Upstream) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def counted(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        mirror(handler)

    def step(value: int) -> Any:
        return post(agent, "plain", x([value, 0.0])).json()["outputs"][0]["data"]

    plain.good, former = counted, plain.good
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(step, range(8))) == [[float(value), 0.0] for value in range(8)]
    finally:
        plain.good = former
    assert most == 2


def test_a_caller_that_goes_away_ends_it_there_too(agent: Agent, plain: Upstream) -> None:
    plain.next(does.hang)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{agent.base_url}/v2/models/plain/infer", json={"inputs": x([1.0, 2.0])}, timeout=0.5)
    assert plain.gone.wait(5)


def test_while_the_server_is_away_requests_are_refused_at_once(agent: Agent, plain: Upstream) -> None:
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 200
    plain.stop()
    ready = f"{agent.base_url}/v2/models/plain/ready"
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 503
    until(lambda: httpx.get(ready).status_code == 503)
    assert "cannot be reached" in post(agent, "plain", x([1.0, 2.0])).json()["error"]
    plain.start()
    until(lambda: httpx.get(ready).status_code == 200)
    assert post(agent, "plain", x([1.0, 2.0])).status_code == 200


def test_a_server_that_has_not_the_model_says_so(agent: Agent, plain: Upstream, tmp_path: Any) -> None:
    pull(agent, tmp_path, "nothing", engine="triton", url=plain.url, model="other")
    answer = command(agent, "nothing", "load")
    assert answer.status_code == 503
    assert "answered 404" in json.loads(answer.text)["error"]
