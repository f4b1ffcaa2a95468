"""A Version answers copies, which are compared and which nobody sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.onnx_file import FLOAT, write_onnx
from tests.support.trials import call, live, pull, until, who


@pytest.fixture(scope="module")
def one_agent(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(ECHO_STEP_SECONDS="0.001")


@pytest.fixture
def agent(one_agent: Agent) -> Iterator[Agent]:
    """One on which nothing is tried, before and after."""
    yield one_agent
    call(one_agent, "/api/models/echo/abort")


SALTS = itertools.count(100)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A version of echo that no agent has seen."""
    return write_gguf(tmp_path / "new.gguf", salt=next(SALTS))


def test_a_shadow_answers_copies_that_nobody_sees(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    shadow = pull(agent, new, shadow=True)
    assert {who(agent, f"user-{at}") for at in range(6)} == {stable}
    until(lambda: agent.metric(f'shadow_total{{model_name="echo",outcome="agree",version="{shadow}"}}') == 6)
    row = live(agent)[shadow]
    assert (row["role"], row["weight"], row["compared"]) == ("shadow", 0, {"agree": 6})
    assert live(agent)[stable]["running"] == 0


def test_a_shadow_gives_way_where_the_node_has_something_to_do(agent: Agent, new: Path) -> None:
    shadow = pull(agent, new, shadow=True)
    assert agent.chat("x" * 1500).status_code == 200  # a copy of over a second begins now
    until(lambda: live(agent)[shadow]["running"] == 1)
    assert agent.chat("in between " * 20).status_code == 200
    until(lambda: live(agent)[shadow]["compared"].get("skipped") == 1)


def test_the_answers_of_a_shadow_of_tensors_are_compared(agent: Agent, tmp_path: Path) -> None:
    shape = {"inputs": [("a", FLOAT, (None, 2)), ("b", FLOAT, (None, 2))]}
    pull(agent, write_onnx(tmp_path / "one.onnx", op="Add", **shape), "maths")
    with triton.InferenceServerClient(f"127.0.0.1:{agent.port}", network_timeout=60.0) as client:

        def ask() -> Any:
            inputs = [triton.InferInput(name, [1, 2], "FP32") for name in "ab"]
            for one in inputs:
                one.set_data_from_numpy(np.array([[3, -4]], np.float32))
            return client.infer("maths", inputs).as_numpy(
                client.get_model_metadata("maths")["outputs"][0]["name"]
            )

        assert ask().tolist() == [[6, -8]]
        shadow = pull(agent, write_onnx(tmp_path / "two.onnx", op="Mul", **shape), "maths", shadow=True)
        assert ask().tolist() == [[6, -8]]
    until(lambda: live(agent, "maths")[shadow]["compared"] == {"differ": 1})
