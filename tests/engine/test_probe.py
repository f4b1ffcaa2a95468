"""Engine settings are tried in a child process: what crashes is found there, and never by the agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.probe import Probes, run_trials
from tests.support.agent import PLUGINS
from tests.support.onnx_file import FLOAT, write_onnx

CRASH: dict[str, Any] = {"crash": True}
FINE: dict[str, Any] = {"kv_type": "f16"}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))


async def test_a_candidate_that_crashes_is_left_out(echo_model: Path) -> None:
    timed = await run_trials("echo", str(echo_model), {}, [FINE, CRASH, FINE])
    assert timed.keys() == {0, 2}


async def test_where_all_crash_the_cpus_extra_features_are_left_out(echo_model: Path, tmp_path: Path) -> None:
    probes = Probes(tmp_path / "probes.json")
    chosen, _ = await probes.choose("echo", str(echo_model), 1, {"crash_with_extras": True}, [FINE])
    assert chosen == {**FINE, "extra_bufts": False}


async def test_a_choice_is_remembered_with_its_measurement_and_not_tried_again(
    echo_model: Path, tmp_path: Path
) -> None:
    trials = tmp_path / "trials"
    settings = {"count_loads_in": str(trials)}
    assert Probes(tmp_path / "probes.json").recall("echo", str(echo_model), settings, [FINE]) is None
    first, again = [
        await Probes(tmp_path / "probes.json").choose("echo", str(echo_model), 1, settings, [FINE])
        for _ in range(2)
    ]
    assert (
        first == again == Probes(tmp_path / "probes.json").recall("echo", str(echo_model), settings, [FINE])
    )
    assert first.choice == FINE
    assert first.seconds
    assert trials.read_text() == "load\n"


async def test_a_damaged_memory_is_made_anew(echo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text("{half")
    found = await Probes(tmp_path / "probes.json").choose("echo", str(echo_model), 1, {}, [FINE])
    assert found.choice == FINE


async def test_what_an_earlier_agent_remembered_without_a_measurement_is_tried_again(
    echo_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "probes.json"
    await Probes(file).choose("echo", str(echo_model), 1, {}, [FINE])
    file.write_text(json.dumps({key: one["choice"] for key, one in json.loads(file.read_text()).items()}))
    assert Probes(file).recall("echo", str(echo_model), {}, [FINE]) is None
    assert (await Probes(file).choose("echo", str(echo_model), 1, {}, [FINE])).seconds


WAYS = [
    {"runners": runners, "threads": threads, "cap": cap}
    for runners, threads in ((2, 1), (1, 2))
    for cap in (1, 2, 4, 8, 16, 32)
]


async def test_ways_to_run_tensors_are_timed_until_larger_batches_only_cost(magika_path: Path) -> None:
    timed = await run_trials("onnx", str(magika_path), {"gpu": False}, WAYS)
    assert {0, 1, 6, 7} <= timed.keys()
    assert all(0 < seconds < 1 for seconds in timed.values())


async def test_a_model_without_a_batch_axis_is_tried_with_one_at_a_time_alone(tmp_path: Path) -> None:
    fixed = [("x", FLOAT, (2, 3))]
    file = write_onnx(tmp_path / "fixed.onnx", inputs=fixed, outputs=[("y", FLOAT, (2, 3))])
    timed = await run_trials("onnx", str(file), {"gpu": False}, WAYS)
    assert timed.keys() == {0, 6}


async def test_a_model_that_does_not_run_on_a_guess_is_left_out(tmp_path: Path) -> None:
    inputs = [("a", FLOAT, (None, None)), ("b", FLOAT, (None, 3))]
    file = write_onnx(tmp_path / "sum.onnx", op="Add", inputs=inputs)
    assert await run_trials("onnx", str(file), {"gpu": False}, WAYS) == {}
