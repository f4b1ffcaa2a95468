"""What is asked of a model: one request of one row, the same for all, and the answer that is right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.engines.tensors import dtype
from bench import peers
from bench.tensors.session import session
from models import onnx
from models.shelf import Shelf
from models.sources import Report, pull

Array = NDArray[Any]
ROWS: dict[str, tuple[int, ...]] = {"magika": (2048,), "text-direction": (3, 48, 192)}
"""The models, and what one row of each is: a file's bytes, a picture of a line of text."""
TOLERANCE = 1e-3  # a batch's sums are rounded in another order


@dataclass(frozen=True, slots=True)
class Case:
    """A model with one input and one output, both with the batch as their first axis."""

    model: str
    path: Path
    input: onnx.TensorSpec
    output: onnx.TensorSpec
    shape: tuple[int, ...]  # of one request: one row

    def example(self, rows: int = 1) -> Array:
        """Whole numbers as magika's, which are bytes; else numbers around 0, as a picture's are."""
        chance = np.random.default_rng(1)
        kind = dtype(self.input.datatype)
        if kind.kind in "iu":
            row = chance.integers(0, 256, self.shape).astype(kind)
        else:
            row = chance.uniform(-1, 1, self.shape).astype(kind)
        return np.repeat(row, rows, axis=0)

    def run(self, rows: Array) -> Array:
        """What onnxruntime alone answers."""
        found: Array = session(str(self.path)).run(None, {self.input.name: rows})[0]
        return found

    def right(self, answer: Array) -> bool:
        """Whether it is the answer to the example."""
        expected = self.run(self.example())
        return np.allclose(answer.reshape(expected.shape), expected, rtol=TOLERANCE, atol=TOLERANCE)


def case(model: str, path: Path, row: tuple[int, ...]) -> Case:
    header = onnx.read_header(path)
    (one,), (other,) = header.inputs, header.outputs
    return Case(model, path, one, other, (1, *row))


def on_shelf(model: str, report: Report) -> Case:
    """From the shelf of the agent that is measured; it is put there where it is not."""
    found = asyncio.run(pull(model, Shelf(peers.AGENT_DATA / "models"), report=report))
    return case(model, found.path, ROWS[model])
