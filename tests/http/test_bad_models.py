"""Models that cannot be served: told in the caller's own protocol, and the others serve on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from tests.engine.test_many_models import admin
from tests.support.agent import Agent
from tests.support.onnx_file import onnx_bytes

ASKED = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent()


@pytest.fixture(autouse=True)
def nothing_else_is_disturbed(agent: Agent) -> Iterator[None]:
    before = agent.pid, agent.worker_pid
    yield
    assert agent.chat("still here").json()["choices"][0]["message"]["content"] == "still here"
    assert (agent.pid, agent.worker_pid) == before


def pulled(agent: Agent, file: Path) -> dict[str, Any]:
    """The last row of a pull."""
    with admin(agent) as client:
        answer = client.post("/api/pull", json={"source": str(file)})
    row: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return row


def wrong_weight() -> bytes:
    """The header is fine; a weight has fewer bytes than its shape asks for."""
    model = onnx.load_from_string(onnx_bytes(op="Add"))
    model.graph.node[0].input.append("w")
    model.graph.initializer.append(onnx.TensorProto(name="w", data_type=1, dims=[3], raw_data=b"\0" * 5))
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (onnx_bytes(opset=999), "its opset is 999, and this onnxruntime knows up to "),
        (onnx_bytes(op="NoSuchOperator"), "onnxruntime cannot load it"),
        (wrong_weight(), "onnxruntime cannot load it"),
    ],
    ids=["an opset that is too new", "an unknown operator", "a damaged weight"],
)
def test_what_onnxruntime_refuses_is_told_at_the_load_and_to_who_asks(
    agent: Agent, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "refused.onnx"
    file.write_bytes(content)
    assert "version" in pulled(agent, file)
    with admin(agent) as client:
        load = client.post("/v2/repository/models/refused/load", json={})
        asked = client.post("/v2/models/refused/infer", json=ASKED)
        assert client.delete("/api/models/refused").status_code == 200
    assert 400 <= load.status_code < 600
    assert says in load.json()["error"]
    assert (asked.status_code, says in asked.json()["error"]) == (503, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (onnx_bytes()[:-1], "truncated"),
        (pickle.dumps({"weights": [1.0]}), "a pickle or an archive, which may run code"),
        (b"PK\x03\x04" + bytes(64), "a pickle or an archive, which may run code"),
    ],
    ids=["a cut file", "a pickle", "an archive"],
)
def test_what_is_no_model_is_refused_at_the_pull(
    agent: Agent, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    assert says in pulled(agent, file)["error"]["message"]
    with admin(agent) as client:
        assert "model" not in [row["model"] for row in client.get("/api/models").json()]


@pytest.mark.parametrize(
    "name", ["nosuch", "nosuch:0123456789ab", "echo:0123456789ab", "echo:", "a/b", "%00"]
)
def test_a_load_of_what_does_not_exist_is_a_404_in_the_protocols_own_shape(agent: Agent, name: str) -> None:
    with admin(agent) as client:
        answer = client.post(f"/v2/repository/models/{name}/load", json={})
    assert answer.status_code == 404, answer.text
    assert httpx.get(f"{agent.base_url}/readyz").status_code == 200
