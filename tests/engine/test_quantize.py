"""An int8 Version is kept where it is faster on this device and agrees; else the original. It is said why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.engines.int8 import examples
from agent.engines.onnx import OnnxEngine
from agent.quantize import COSINE, decide
from models.manifest import File, Manifest, version_of
from models.shelf import Shelf
from models.sources import known
from tests.engine.test_many_models import admin
from tests.support.agent import Agent, free_port
from tests.support.bert import Bert
from tests.tooling.command import run

WIDTH = 1536
ONE_WAY = {"cap": 1, "runners": 1, "threads": 1}  # nothing is tried, so that the tests are quick
QUICK = {"AUTOGLM_MODELS": json.dumps({name: ONE_WAY for name in ("product", "wrong", "magika", "odd")})}


def write_product(path: Path, *, outlier: bool = False) -> Path:
    """x[N, 1536] by two large matrices: int8 is several times faster; with an outlier, also wrong."""
    chance = np.random.default_rng(0)
    matrices = [chance.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH for _ in range(2)]
    if outlier:
        matrices[1][0, 0] = 1e4
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("MatMul", ["h", "b"], ["m"]),
        helper.make_node("Clip", ["m", "low", "high"], ["y"]),
    ]
    limits = {"low": -1e-3, "high": 1e-3}
    values = [numpy_helper.from_array(one, name) for name, one in zip("ab", matrices, strict=True)]
    values += [numpy_helper.from_array(np.float32(value), name) for name, value in limits.items()]
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "product", shape[:1], shape[1:], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("onnx") / "product.onnx")


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    return {**QUICK, "AUTOGLM_DATA_DIR": str(tmp_path / "data"), "AUTOGLM_HTTP_PORT": str(free_port())}


def quantised(source: Path, where: dict[str, str], name: str | None = None) -> dict[str, Any]:
    told = run("pull", str(source), "--name", name or source.stem, "--quantize", "--json", **where)
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def test_a_faster_int8_version_is_kept_on_the_shelf_and_says_what_it_was_made_from(
    product: Path, alone: dict[str, str]
) -> None:
    answer = quantised(product, alone)
    decision = answer["quantized"]
    assert decision["kept"] == "int8"
    assert decision["int8"] > decision["original"]
    assert decision["agreement"]["cosine"] > COSINE
    assert "it is faster here" in decision["why"]
    shelf = Shelf(Path(alone["AUTOGLM_DATA_DIR"]) / "models")
    made, original = shelf.versions()
    assert made.version == answer["version"]
    assert (made.manifest.made_from, made.manifest.source) == (original.version, str(product))
    assert (original.manifest.made_from, original.path.read_bytes()) == ("", product.read_bytes())
    assert made.size < original.size / 2
    assert not list(shelf.work.glob("*"))
    assert known("product", shelf) == known(str(product), shelf) == made
    run("pull", str(product), **alone)  # without --quantize it is what the source has
    assert [one.manifest.made_from for one in shelf.versions()] == ["", original.version]


def test_the_original_is_kept_where_int8_disagrees(tmp_path: Path, alone: dict[str, str]) -> None:
    decision = quantised(write_product(tmp_path / "wrong.onnx", outlier=True), alone)["quantized"]
    assert (decision["kept"], "its outputs differ too much" in decision["why"]) == ("original", True)
    assert decision["agreement"]["cosine"] < COSINE
    (only,) = Shelf(Path(alone["AUTOGLM_DATA_DIR"]) / "models").versions()
    assert only.manifest.made_from == ""


def test_through_a_running_agent_the_better_is_served_at_once(
    start_agent: Callable[..., Agent], product: Path
) -> None:
    agent = start_agent(**QUICK)
    with admin(agent) as client:
        body = {"source": str(product), "quantize": True}
        rows = [json.loads(line) for line in client.post("/api/pull", json=body).text.splitlines()]
        assert {"quantize", "measure"} <= {row.get("phase") for row in rows}
        assert rows[-1]["quantized"]["kept"] == "int8"
        x = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": [1.0] * WIDTH}
        answer = client.post("/v2/models/product/infer", json={"inputs": [x]}).json()
    assert answer["model_version"] == rows[-1]["version"]
    agent.stop()


def test_the_real_magika_is_measured_and_agrees_with_itself(magika_path: Path, alone: dict[str, str]) -> None:
    decision = quantised(magika_path, alone)["quantized"]
    assert decision["original"] > 0
    assert decision["int8"] > 0
    assert decision["agreement"]["cosine"] > 0.9
    assert decision["kept"] in ("int8", "original")


def test_a_gguf_is_refused_before_it_is_fetched_or_where_it_is_seen(
    echo_model: Path, tmp_path: Path, alone: dict[str, str]
) -> None:
    renamed = tmp_path / "model.bin"
    renamed.write_bytes(echo_model.read_bytes())
    for source in ("smollm2-135m-instruct", str(echo_model), str(renamed)):
        told = run("pull", source, "--quantize", **alone)
        assert told.returncode == 1
        assert "is a GGUF, which is quantised already" in told.stderr


def test_a_model_that_onnxruntime_cannot_run_is_told_and_stays_on_the_shelf(
    tmp_path: Path, alone: dict[str, str]
) -> None:
    file = write_product(tmp_path / "odd.onnx")
    model = onnx.load(file)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, file)
    told = run("pull", str(file), "--quantize", **alone)
    assert told.returncode == 1
    assert "odd is on the shelf, but not quantised: onnxruntime cannot load it" in told.stderr
    assert told.stderr.count("Traceback") == 0


def test_a_model_whose_weights_lie_in_another_file_is_refused_and_stays_on_the_shelf(
    tmp_path: Path, alone: dict[str, str]
) -> None:
    (tmp_path / "split").mkdir()
    model = onnx.load(write_product(tmp_path / "whole.onnx"))
    onnx.save(model, tmp_path / "split/model.onnx", save_as_external_data=True, location="weights.bin")
    told = run("pull", f"{tmp_path}/split/", "--quantize", **alone)
    assert told.returncode == 1
    assert "its weights lie in other files" in told.stderr
    assert "save it as one file" in told.stderr
    (only,) = Shelf(Path(alone["AUTOGLM_DATA_DIR"]) / "models").versions()
    assert {path.name for path in only.folder.iterdir()} == {"model.onnx", "weights.bin"}


def test_examples_have_all_their_tokens_and_no_second_text(tmp_path: Path) -> None:
    root = Bert().write_folder(tmp_path)
    made = examples(OnnxEngine(str(root / "onnx/model.onnx"), {"threads": 1, "runners": 1}, lambda _: None))
    assert all((one["attention_mask"] == 1).all() for one in made)
    assert all((one["token_type_ids"] == 0).all() for one in made)
    assert len({one["input_ids"].tobytes() for one in made}) > 1


AGREES = {"cosine": 1.0, "top1": 1.0, "max_abs": 0.0}
FINE = {"operators": "x", "file": "f", **AGREES, "won": 1.0, "rows_per_s": 200.0}


@pytest.mark.parametrize(
    ("made", "kept", "says"),
    [
        ([FINE], "f", "it is faster here"),
        ([{**FINE, "rows_per_s": 104.0}], None, "it is not surely faster here"),
        ([{**FINE, "won": 0.6}], None, "it is not surely faster here"),
        ([{**FINE, "cosine": 0.98}], None, "differ too much"),
        ([{**FINE, "file": "wrong", "cosine": 0.5, "rows_per_s": 900.0}, FINE], "f", "it is faster here"),
        ([FINE, {**FINE, "file": "best", "rows_per_s": 300.0}], "best", "300 rows/s"),
        ([{"operators": "x", "error": "no"}, {"operators": "y", "error": "nor"}], None, "int8 of y: nor"),
    ],
)
def test_the_decision_follows_from_what_was_measured(
    made: list[dict[str, Any]], kept: str | None, says: str
) -> None:
    decision, file = decide({"original": 100.0, "made": made})
    assert (file, decision["kept"]) == (kept, "int8" if kept else "original")
    assert says in decision["why"]


def test_manifests_of_agents_that_know_no_quantising_are_read_and_written_alike() -> None:
    files = (File(path="m.onnx", size=1, sha256="0" * 64),)
    manifest = Manifest(model="m", version=version_of(files), files=files, created=0)
    assert b"made_from" not in manifest.to_bytes()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    made = manifest.model_copy(update={"made_from": "0" * 12})
    assert Manifest.from_bytes(made.to_bytes()).made_from == "0" * 12
