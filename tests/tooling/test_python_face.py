"""`openautoglm.AutoGLMEngine`, as a program uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agent.cli.errors import CommandError
from openautoglm import AutoGLMEngine, RunningNode
from tests.support.agent import PLUGINS, Agent, free_port
from tests.support.gguf_file import write_gguf
from tests.tooling.command import run

PROGRAM = """
import sys
from openautoglm import AutoGLMEngine
engine = AutoGLMEngine(model_path=sys.argv[1], max_batch_size=3, use_gpu=False, engine="echo",
                       data_dir=sys.argv[2])
engine.start_server(host="127.0.0.1", port=int(sys.argv[3]))
print("served")
"""


def test_start_server_serves_until_it_is_told_to_stop(echo_model: Path, tmp_path: Path) -> None:
    port = free_port()
    program = [sys.executable, "-c", PROGRAM, str(echo_model), str(tmp_path), str(port)]
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS)}
    with subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None and not ready(url):
            time.sleep(0.1)
        settings = httpx.get(f"{url}/status").json()["settings"]
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)
    assert (settings["max_batch_size"], settings["gpu_layers"]) == (3, 0)
    assert printed == b"served\n"
    assert process.returncode == 0


def test_a_setting_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="kontext"):
        AutoGLMEngine(kontext=4096)


def test_a_setting_that_is_wrong_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="max_batch_size"):
        AutoGLMEngine(max_batch_size=0)


def test_trials_are_begun_and_ended_from_python(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start_agent()
    here = {"AUTOGLM_DATA_DIR": str(agent.data_dir)}
    source = str(write_gguf(tmp_path / "new.gguf", salt=1))
    new = json.loads(run("pull", source, "--name", "echo", "--weight", "5", "--json", **here).stdout)[
        "version"
    ]
    node = RunningNode(data_dir=agent.data_dir)
    assert [row["weight"] for row in node.status()["models"]] == [95, 5]
    assert node.abort("echo") == [new]
    node.canary(f"echo:{new}", shadow=True)
    assert [row["role"] for row in node.status()["models"]] == ["stable", "shadow"]
    assert node.promote("echo") == new
    with pytest.raises(CommandError, match="echo has no canary"):
        node.promote("echo")
    agent.stop()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False
