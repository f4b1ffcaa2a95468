"""A Version answers copies, which are compared and which nobody sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

from tests.support.agent import Agent
from tests.support.onnx_file import FLOAT, write_onnx
from tests.support.trials import live, pull, who
from tests.support.waiting import until


def test_a_shadow_answers_copies_that_nobody_sees(agent: Agent, new: Path) -> None:
    [stable] = live(agent)
    shadow = pull(agent, new, shadow=True)
    agreed = f'shadow_total{{model_name="echo",outcome="agree",version="{shadow}"}}'
    for at in range(1, 7):
        assert who(agent, f"user-{at}") == stable
        until(lambda at=at: agent.metric(agreed) == at)  # a copy gives way to who comes meanwhile
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
