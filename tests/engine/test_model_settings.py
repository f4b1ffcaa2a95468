"""A model's own settings go before the node's, in everything that is set for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from agent import device
from agent.config import Settings
from agent.model_settings import ModelSettings
from tests.engine.test_many_models import admin, content, pull, states, until
from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.onnx_file import write_onnx

GIVEN = {
    "keep_alive": "1h",
    "threads": 3,
    "gpu_layers": 0,
    "max_batch_size": 7,
    "context": 512,
    "kv_type": "f16",
    "flash_attention": "off",
    "opt_batch_size": 4,
    "delay_ms": 2.5,
    "priority": 8,
    "request_timeout_s": 9,
    "queue_requests": 11,
    "queue_bytes": 12,
    "queue_tokens": 13,
}


def settings(**tables: dict[str, Any]) -> Settings:
    return Settings(models=tables)


def test_what_a_table_sets_is_in_force_for_its_model_and_for_no_other() -> None:
    both = settings(mine=GIVEN)
    mine, node = both.of("mine"), Settings()
    assert {name: getattr(mine, name) for name in GIVEN} == {**GIVEN, "keep_alive": 3600}
    assert both.of("other").model_dump(exclude={"models"}) == node.model_dump(exclude={"models"})
    unset = settings(mine={"priority": 0}).of("mine")
    assert unset.model_dump(exclude={"models", "priority"}) == node.model_dump(exclude={"models", "priority"})


def test_every_setting_of_a_model_is_the_nodes_too_or_the_models_alone() -> None:
    alone = {"pinned", "instances", "cpu_share", "cap", "runners", "lone_threads", "weights"}
    assert ModelSettings.model_fields.keys() - Settings.model_fields.keys() == alone
    assert GIVEN.keys() | alone == ModelSettings.model_fields.keys()


@pytest.mark.parametrize(
    ("given", "is_worth"),
    [
        ({"preferred_batch_size": 8}, 8),
        ({"preferred_batch_size": [4, 16, 8]}, 16),
        ({"preferred_batch_size": [4, 16, 8], "max_batch_size": 10}, 8),
        ({"preferred_batch_size": [4, 16, 8], "cap": 4}, 4),
        ({"preferred_batch_size": [8, 16], "cap": 4}, 8),
    ],
)
def test_of_tritons_preferred_sizes_the_largest_within_the_cap_counts(
    given: dict[str, Any], is_worth: int
) -> None:
    assert ModelSettings.model_validate(given).opt_batch_size == is_worth


def test_tritons_delay_is_in_microseconds() -> None:
    assert ModelSettings.model_validate({"max_queue_delay_microseconds": 1500}).delay_ms == 1.5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kep_alive": 5}, "there is no setting `kep_alive`: is keep_alive meant?"),
        ({"prefered_batch_size": 5}, "is preferred_batch_size meant?"),
        ({"delay_ms": 1, "max_queue_delay_microseconds": 1000}, "is Triton's name of `delay_ms`"),
        ({"preferred_batch_size": []}, "`preferred_batch_size` must be"),
        ({"preferred_batch_size": [True]}, "`preferred_batch_size` must be"),
        ({"max_queue_delay_microseconds": "5"}, "`max_queue_delay_microseconds` must be a number"),
        ({"5": {"pinned": True}}, r'in quotes: \[models."NAME"\]'),
        ({"instances": 0}, "instances"),
        ({"cpu_share": 0}, "cpu_share"),
        ({"priority": 10}, "priority"),
        ({"runners": 65}, "runners"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelSettings.model_validate(given)


def test_what_is_set_of_a_models_way_to_run_is_not_tried() -> None:
    tables = settings(
        runs={"threads": 8, "runners": 4},
        caps={"threads": 2, "cap": 3},
        all={"threads": 4, "runners": 2, "cap": 8},
    )
    ways = {name: device.trial_of(tables, name, "onnx", {}) for name in ("runs", "caps", "all", "other")}
    assert all(trial is not None for trial in ways.values())
    tried = {name: trial.candidates for name, trial in ways.items() if trial}
    assert {(one["runners"], one["threads"]) for one in tried["runs"]} == {(4, 2)}
    assert [one["cap"] for one in tried["caps"]] == [3, 3]
    assert tried["all"] == [{"runners": 2, "threads": 2, "cap": 8}]
    assert max(one["cap"] for one in tried["other"]) == 32


FILE = """
keep_alive = -1

[models.brief]
keep_alive = "100ms"

[models.pinned]
pinned = true
keep_alive = 0

[models."small.one"]
max_batch_size = 3
context = 512
request_timeout_s = 0.5

[models.patient]
priority = 1
max_batch_size = 1

[models.tensors]
cap = 4
runners = 2
threads = 2
preferred_batch_size = [2, 8]
max_queue_delay_microseconds = 500
"""


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "agent.toml").write_text(FILE)
    agent = start_agent(AUTOGLM_CONFIG=str(folder / "agent.toml"), ECHO_STEP_SECONDS="0.01")
    for salt, name in enumerate(("brief", "pinned", "small.one", "lasting", "patient"), 20):
        pull(agent, write_gguf(folder / f"{name}.gguf", salt=salt), name)
    pull(agent, write_onnx(folder / "tensors.onnx"), "tensors")
    return agent


def test_a_pinned_model_is_loaded_when_it_comes_and_when_the_agent_starts_and_stays(agent: Agent) -> None:
    until(lambda: states(agent)["pinned"] == "ready")
    agent.restart()
    until(lambda: states(agent).get("pinned") == "ready")  # the shelf is looked through meanwhile
    assert content(agent.chat("still here", model="pinned")) == "still here"
    assert content(agent.chat("in and out", model="brief")) == "in and out"
    until(lambda: states(agent)["brief"] == "stopped")
    assert states(agent)["pinned"] == "ready"
    with admin(agent) as client:
        assert client.post("/v2/repository/models/pinned/unload", json={}).status_code == 200
    assert states(agent)["pinned"] == "stopped"
    told = {one["name"]: one["default"] for one in agent.status()["models"]}
    assert told["echo"]


def test_a_models_own_keep_alive_ends_before_the_nodes(agent: Agent) -> None:
    for model in ("brief", "lasting"):
        assert content(agent.chat("once", model=model)) == "once"
    until(lambda: states(agent)["brief"] == "stopped")
    assert states(agent)["lasting"] == "ready"


def test_slots_context_and_timeout_of_one_model_are_not_those_of_others(agent: Agent) -> None:
    with admin(agent) as client:
        assert client.post("/v2/repository/models/small.one/load", json={}).status_code == 200
    told = {one["name"]: (one.get("slots"), one.get("context")) for one in agent.status()["models"]}
    assert told["small.one"] == (3, 512)
    assert told["echo"] != told["small.one"]
    text = "a letter in each step " * 4 + "end"
    assert agent.chat(text, model="small.one").status_code == 504
    assert content(agent.chat(text)) == text


def test_requests_that_name_no_priority_have_their_models(agent: Agent) -> None:
    slow = "an answer of many letters " * 2
    with ThreadPoolExecutor(12) as pool:
        first = [pool.submit(agent.chat, slow, model="patient") for _ in range(8)]
        until(lambda: agent.status()["queue"]["requests"] > 0)
        urgent = pool.submit(agent.chat, "now", model="patient", priority=2)
        assert content(urgent.result()) == "now"
        assert not all(one.done() for one in first)
    assert [content(one.result()) for one in first] == [slow] * 8


def test_what_was_set_for_a_model_of_tensors_is_what_runs_it_and_is_shown(agent: Agent) -> None:
    one = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}
    answer = httpx.post(f"{agent.base_url}/v2/models/tensors/infer", json={"inputs": [one]}, timeout=60)
    assert answer.json()["outputs"][0]["data"] == [1.0, 2.0, 3.0]
    (told,) = [model["details"] for model in agent.status()["models"] if model["name"] == "tensors"]
    assert (told["cap"], told["runners"], told["threads"]) == (4, 2, 1)
    assert (told["opt_batch_size"], told["delay_ms"]) == (2, 0.5)
    shown = agent.status()["settings"]["models"]["tensors"]
    assert shown == {"cap": 4, "runners": 2, "threads": 2, "opt_batch_size": 2, "delay_ms": 0.5}
