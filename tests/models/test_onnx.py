"""What the ONNX reader promises: a Header or ONNXError, soon and in little memory, whatever the bytes."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadFile, ONNXError
from models.format import engine_for
from models.onnx import TensorSpec, read_header
from tests.support.gguf_file import write_gguf
from tests.support.onnx_file import FLOAT, INT64, STRING, data, external_tensor, onnx_bytes, write_onnx


def test_the_header_tells_inputs_outputs_and_opsets(tmp_path: Path) -> None:
    inputs = (("a", FLOAT, (None, 3, 48, 192)), ("b", INT64, ()))
    header = read_header(write_onnx(tmp_path / "m", op="Add", inputs=inputs))
    assert header.inputs == (TensorSpec("a", "FP32", (None, 3, 48, 192)), TensorSpec("b", "INT64", ()))
    assert header.outputs == (TensorSpec("y", "FP32", (None, 3)),)
    assert (header.ir_version, header.opsets, header.external) == (8, {"": 17}, ())


def test_an_input_that_has_a_value_already_is_none(tmp_path: Path) -> None:
    inputs = (("x", FLOAT, (None,)), ("w", FLOAT, (3,)))
    header = read_header(write_onnx(tmp_path / "m", inputs=inputs, initializers=[data(8, "w")]))
    assert [spec.name for spec in header.inputs] == ["x"]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("w.bin", "'w.bin', which is not there"),
        ("../../etc/passwd", "without '..'"),
        ("/etc/passwd", "must be relative"),
        ("a/../../b", "without '..'"),
        ("..\\b", "must be relative"),
        ("", "must be relative"),
    ],
)
def test_external_data_that_is_no_file_of_the_version_is_refused(
    tmp_path: Path, where: str, says: str
) -> None:
    file = write_onnx(tmp_path / "m", initializers=[external_tensor("w", where)])
    assert read_header(file).external == (where,)
    with pytest.raises(BadFile, match=says):
        engine_for(file, ["m", "other.bin"])


def test_the_kind_of_file_is_told_by_its_content(tmp_path: Path) -> None:
    assert engine_for(write_onnx(tmp_path / "x.gguf")) == "onnx"
    assert engine_for(write_gguf(tmp_path / "x.onnx")) == "llama"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (pickle.dumps({"weights": 1}), "pickle"),
        (b"PK\x03\x04" + bytes(30), "pickle"),
        (b"<html></html>", "not a GGUF or ONNX file"),
        (onnx_bytes()[:-1], "truncated"),
        (onnx_bytes()[:40], "truncated|no version, graph or opset"),
        (b"\x08\x08", "no version, graph or opset"),
        (b"\x08" + b"\xff" * 20, "truncated"),
        (onnx_bytes(outputs=()), "no outputs"),
        (onnx_bytes(inputs=(("x", 99, ()),)), "kind 99"),
        (onnx_bytes(inputs=(("x" * 5000, FLOAT, ()),)), "too long"),
        (onnx_bytes(inputs=(("x", STRING, (1,) * 17),)), "17 dimensions"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadFile, match=says):
        engine_for(tmp_path / "m.onnx")


def test_graphs_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    inner = b""
    for _ in range(100):  # graph > node > attribute > graph ...
        inner = data(1, data(5, data(6, inner)))
    whole = onnx_bytes() + data(25, data(7, data(5, data(6, inner))))
    (tmp_path / "m").write_bytes(whole)
    with pytest.raises(ONNXError, match="nested"):
        read_header(tmp_path / "m")


@given(at=st.integers(0, len(onnx_bytes()) - 1), byte=st.integers(0, 255), cut=st.integers(0, 60))
def test_any_damage_is_a_header_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int
) -> None:
    content = bytearray(onnx_bytes())
    content[at] = byte
    file = tmp_path_factory.getbasetemp() / "damaged.onnx"
    file.write_bytes(bytes(content)[: len(content) - cut])
    with contextlib.suppress(ONNXError):
        read_header(file)
