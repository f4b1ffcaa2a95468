"""The command line: found agents, answers, JSON for scripts, and failures of one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import __version__
from agent.cli.app import app
from tests.support.agent import Agent, free_port, two_ports
from tests.support.bert import Bert
from tests.tooling.command import run

COMMANDS = [
    str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback
]
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def here(echo_agent: Agent) -> dict[str, str]:
    """The settings of a shell on the agent's machine."""
    return {"AUTOGLM_DATA_DIR": str(echo_agent.data_dir)}


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """Those of a shell where no agent runs."""
    return {"AUTOGLM_DATA_DIR": str(tmp_path), "AUTOGLM_HTTP_PORT": str(free_port())}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_every_command_is_documented(command: str, readme: str) -> None:
    assert f"| `autoglm {command}" in README.with_name(readme).read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    told = run(command, "--help")
    assert told.returncode == 0
    assert f"autoglm {command}" in told.stdout


def test_help_tells_a_newcomer_what_to_do_next() -> None:
    told = run("--help").stdout
    assert "First steps" in told
    assert all(f"autoglm {command}" in told for command in ("serve", "generate", "publish", "pull"))
    assert run().stdout.strip() == told.strip()


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"autoglm {__version__}\n"


def test_generate_prints_the_answer_of_the_running_agent(here: dict[str, str]) -> None:
    assert run("generate", "Ground control", **here).stdout == "Ground control\n"


def test_a_prompt_can_come_from_standard_input(here: dict[str, str]) -> None:
    assert run("generate", "-", stdin="from a pipe", **here).stdout == "from a pipe\n"


def test_generate_as_json_is_the_whole_completion(here: dict[str, str]) -> None:
    answer = json.loads(run("generate", "Hi", "--json", **here).stdout)
    assert answer["choices"][0]["message"]["content"] == "Hi"
    assert answer["usage"]["completion_tokens"] > 0


def test_an_agent_is_found_by_its_port_where_its_socket_is_out_of_reach(
    echo_agent: Agent, tmp_path: Path
) -> None:
    far = {"AUTOGLM_DATA_DIR": str(tmp_path), "AUTOGLM_HTTP_PORT": str(echo_agent.port)}
    assert run("generate", "Hi", **far).stdout == "Hi\n"


def test_status_shows_the_model_and_the_settings(here: dict[str, str]) -> None:
    told = json.loads(run("status", "--json", **here).stdout)
    assert told["ready"] is True
    assert told["models"][0]["name"] == "echo"
    shown = run("status", **here).stdout
    assert len(shown.splitlines()) <= 12
    for said in ("version", "HTTP", "MQTT", "ready    yes", "echo on cpu, ", "pid ", "slots of"):
        assert said.lower() in shown.lower()


def test_status_as_json_is_json_where_no_agent_runs(alone: dict[str, str]) -> None:
    told = run("status", "--json", **alone)
    assert told.returncode == 1
    assert "autoglm serve" in json.loads(told.stdout)["error"]["message"]


def test_models_lists_the_shelf_of_the_running_agent(here: dict[str, str]) -> None:
    rows = json.loads(run("models", "--json", **here).stdout)
    assert [row["model"] for row in rows if row["loaded"]] == ["echo"]


def test_models_shows_how_this_device_runs_each_with_an_agent_and_without(
    start_agent: Callable[..., Agent], magika_path: Path
) -> None:
    agent = start_agent(AUTOGLM_MODEL=str(magika_path))
    there = {"AUTOGLM_DATA_DIR": str(agent.data_dir), "AUTOGLM_HTTP_PORT": str(agent.port)}
    (loaded,) = json.loads(run("models", "--json", **there).stdout)
    chosen = loaded["chosen"]
    assert (loaded["engine"], loaded["loaded"]) == ("onnx", True)
    assert chosen.keys() - {"lone_threads"} == {"cap", "runners", "threads", "rows_per_s"}
    assert chosen.items() <= agent.status()["models"][0]["details"].items()
    assert f"batches of {chosen['cap']}, " in run("status", **there).stdout
    agent.stop()
    (at_rest,) = json.loads(run("models", "--json", **there).stdout)
    assert (at_rest["chosen"], at_rest["loaded"]) == (chosen, False)
    shown = run("models", **there).stdout.splitlines()
    alone = f", alone on {chosen['lone_threads']}" if "lone_threads" in chosen else ""
    speed = f"{chosen['rows_per_s']:.0f} rows/s"
    way = f"{chosen['cap']} x {chosen['runners']} x {chosen['threads']}{alone}, {speed}"
    assert shown[1].split("\t")[3:5] == ["onnx", way]
    ways = {name: {"cap": 3, "runners": 1, "threads": 1} for name in [at_rest["model"]]}
    (told,) = json.loads(run("models", "--json", **there, AUTOGLM_MODELS=json.dumps(ways)).stdout)
    assert told["chosen"] == ways[at_rest["model"]]


def test_models_shows_what_was_found_out_of_an_encoder_that_is_at_rest(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    model = Bert().write_gguf(tmp_path / "bert.gguf")
    agent = start_agent(AUTOGLM_ENGINE="llama", AUTOGLM_MODEL=str(model))
    there = {
        "AUTOGLM_DATA_DIR": str(agent.data_dir),
        "AUTOGLM_HTTP_PORT": str(agent.port),
        "AUTOGLM_ENGINE": "llama",
    }
    (loaded,) = json.loads(run("models", "--json", **there).stdout)
    agent.stop()
    (at_rest,) = json.loads(run("models", "--json", **there).stdout)
    assert (loaded["loaded"], at_rest["loaded"]) == (True, False)
    assert at_rest["chosen"].items() <= loaded["chosen"].items()
    assert {"kv_type", "flash_attention"} <= at_rest["chosen"].keys()


def test_doctor_says_what_onnxruntime_computes_on_and_that_two_of_them_cannot_be(tmp_path: Path) -> None:
    here = {"AUTOGLM_DATA_DIR": str(tmp_path), "AUTOGLM_HTTP_PORT": str(free_port())}
    (onnx,) = [one for one in json.loads(run("doctor", "--json", **here).stdout) if one["about"] == "onnx"]
    assert onnx["state"] in ("ok", "note")
    assert re.fullmatch(r"onnxruntime(-gpu)? \d[\d.]+ with (TensorRT, )?(CUDA, )?CPU(;.*)?", onnx["says"])
    for name in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    told = run("doctor", **here, PYTHONPATH=str(tmp_path))
    assert told.returncode == 1
    assert "onnxruntime and onnxruntime-gpu overwrite each other's files" in told.stdout
    assert "broken: onnx" in told.stderr


def test_bench_measures_each_number_of_clients(here: dict[str, str]) -> None:
    told = run("bench", "--clients", "1,3", "--requests", "2", "--max-tokens", "8", "--json", **here)
    rows = json.loads(told.stdout)
    assert [row["clients"] for row in rows] == [1, 3]
    assert all(row["tokens_per_second"] > 0 and row["ttft_p50_ms"] > 0 for row in rows)


def test_doctor_finds_nothing_broken_beside_a_ready_agent(here: dict[str, str]) -> None:
    told = run("doctor", "--json", **here)
    assert told.returncode == 0, told.stdout
    about = {finding["about"]: finding["state"] for finding in json.loads(told.stdout)}
    assert about["agent"] == about["models"] == about["engine"] == "ok"


def test_doctor_says_that_another_program_has_the_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        told = run("doctor", AUTOGLM_DATA_DIR=str(tmp_path), AUTOGLM_HTTP_PORT=port)
    assert told.returncode == 1
    assert "AUTOGLM_HTTP_PORT" in told.stdout


def test_doctor_tells_why_the_agent_is_not_connected_to_its_broker(start_agent: Callable[..., Agent]) -> None:
    with socket.socket() as other:  # somebody listens where the embedded broker should
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        agent = start_agent(AUTOGLM_MQTT_URL="embedded", AUTOGLM_EMBEDDED_PORT=str(port))
        while "mqtt" not in agent.status()["doors"]:
            time.sleep(0.05)
        told = run("doctor", AUTOGLM_DATA_DIR=str(agent.data_dir))
    agent.stop()
    assert told.returncode == 1
    assert "broken: mqtt" in told.stderr
    assert "set AUTOGLM_EMBEDDED_PORT, or AUTOGLM_MQTT_URL=mqtt://127.0.0.1:" in told.stdout


def test_pull_and_models_work_on_the_shelf_where_no_agent_runs(
    echo_model: Path, alone: dict[str, str]
) -> None:
    got = json.loads(run("pull", str(echo_model), "--name", "mine", "--json", **alone).stdout)
    rows = json.loads(run("models", "--json", **alone).stdout)
    assert [(row["model"], row["version"]) for row in rows] == [("mine", got["version"])]


def test_pull_works_through_the_running_agent(here: dict[str, str], echo_model: Path) -> None:
    told = run("pull", str(echo_model), "--name", "echo", "--json", **here)
    assert json.loads(told.stdout)["model"] == "echo"


def test_pull_says_what_became_of_the_model_and_what_to_do_next(
    here: dict[str, str], alone: dict[str, str], echo_model: Path
) -> None:
    assert "is on the shelf; serve it with AUTOGLM_MODEL=next" in (
        run("pull", str(echo_model), "--name", "next", **alone).stderr
    )
    assert "is already here; serve it with AUTOGLM_MODEL=next" in (
        run("pull", str(echo_model), "--name", "next", **alone).stderr
    )
    assert "is already here, and the agent serves it" in run("pull", str(echo_model), **here).stderr


def test_remove_takes_a_model_off_the_shelf_where_no_agent_runs(
    alone: dict[str, str], echo_model: Path
) -> None:
    run("pull", str(echo_model), "--name", "mine", **alone)
    gone = json.loads(run("remove", "mine", "--json", **alone).stdout)
    assert [row["model"] for row in gone] == ["mine"]
    assert json.loads(run("models", "--json", **alone).stdout) == []
    again = run("remove", "mine", **alone)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "mine is not on the shelf" in again.stderr


def test_remove_through_the_running_agent_leaves_what_it_serves(
    here: dict[str, str], echo_model: Path
) -> None:
    run("pull", str(echo_model), "--name", "spare", **here)
    assert "spare" in run("remove", "spare", **here).stderr
    rows = json.loads(run("models", "--json", **here).stdout)
    assert "spare" not in [row["model"] for row in rows]
    (served,) = [row["version"] for row in rows if row["loaded"]]
    for name in ("echo", f"echo:{served}"):
        refused = run("remove", name, **here)
        assert refused.returncode == 1
        assert "is being served" in refused.stderr
    assert run("generate", "Hi", **here).stdout == "Hi\n"


def test_nothing_is_removed_from_under_an_agent_that_does_not_answer(
    start_agent: Callable[..., Agent],
) -> None:
    agent = start_agent()
    there = {"AUTOGLM_DATA_DIR": str(agent.data_dir), "AUTOGLM_HTTP_PORT": str(free_port())}
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        refused = run("remove", "echo", **there)
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    assert (refused.returncode, "another agent runs on" in refused.stderr) == (1, True)
    assert run("remove", "echo:", **there).returncode == 1
    assert run("generate", "Hi", **there).stdout == "Hi\n"
    agent.stop()


def test_flags_take_no_value_in_the_help() -> None:
    lines = [line for line in run("generate", "--help").stdout.splitlines() if "--json" in line]
    assert lines
    assert "<bool>" not in lines[0]


@pytest.mark.parametrize("command", [("generate", "Hi"), ("status",), ("bench",)])
def test_without_an_agent_a_command_says_how_to_start_one(
    command: tuple[str, ...], alone: dict[str, str]
) -> None:
    told = run(*command, **alone)
    assert told.returncode == 1
    assert "autoglm serve" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "says", "code"),
    [
        (("generate", "Hi", "--model", "nope"), {}, "nope", 1),
        (("generate", ""), {}, "the prompt is empty", 2),
        (("pull", "no such thing"), {}, "no such thing", 1),
        (("pull", "/"), {}, "/: a folder must have a model.onnx, or one .onnx or .gguf file", 1),
        (("pull", __file__), {}, f"{__file__}: not a GGUF or ONNX file", 1),
        (("status",), {"AUTOGLM_HTTP_PORT": "eighty"}, "AUTOGLM_HTTP_PORT", 2),
        (("bench", "--clients", "none"), {}, "--clients", 2),
        (("generate",), {}, "prompt", 2),
        (("nonsense",), {}, "nonsense", 2),
    ],
)
def test_failures_are_told_without_a_traceback(
    arguments: tuple[str, ...], settings: dict[str, str], says: str, code: int, here: dict[str, str]
) -> None:
    told = run(*arguments, **(here | settings))
    assert told.returncode == code
    assert says in told.stderr
    assert "Traceback" not in told.stderr


def test_a_second_agent_on_the_same_data_is_refused(here: dict[str, str]) -> None:
    told = run("serve", AUTOGLM_HTTP_PORT=str(free_port()), **here)
    assert told.returncode == 1
    assert "another agent runs" in told.stderr
    assert "Traceback" not in told.stderr


def test_publish_prints_the_answer_that_comes_by_mqtt(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(AUTOGLM_MQTT_URL="embedded", AUTOGLM_EMBEDDED_PORT=str(two_ports()))
    agent.connected()
    here = {"AUTOGLM_DATA_DIR": str(agent.data_dir)}
    assert run("publish", "Major Tom", **here).stdout == "Major Tom\n"
    whole = json.loads(run("publish", "Major Tom", "--json", **here).stdout)
    assert whole["choices"][0]["message"]["content"] == "Major Tom"
    refused = run("publish", "Hi", "--model", "nope", **here)
    assert refused.returncode == 1
    assert "nope" in refused.stderr


def test_an_agent_whose_output_is_no_terminal_logs_a_json_object_a_line(echo_agent: Agent) -> None:
    events = [json.loads(line)["event"] for line in echo_agent.log.splitlines()]
    assert "listening" in events
