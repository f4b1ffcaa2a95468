"""Engine settings are tried in a child process: what crashes is found there, and never by the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.probe import Probes, run_trials
from tests.support.agent import PLUGINS

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
    chosen = await probes.choose("echo", str(echo_model), 1, {"crash_with_extras": True}, [FINE])
    assert chosen == {**FINE, "extra_bufts": False}


async def test_a_choice_is_remembered_and_not_tried_again(echo_model: Path, tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    settings = {"count_loads_in": str(trials)}
    for _ in range(2):
        probes = Probes(tmp_path / "probes.json")
        assert await probes.choose("echo", str(echo_model), 1, settings, [FINE]) == FINE
    assert trials.read_text() == "load\n"


async def test_a_damaged_memory_is_made_anew(echo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text("{half")
    assert await Probes(tmp_path / "probes.json").choose("echo", str(echo_model), 1, {}, [FINE]) == FINE
