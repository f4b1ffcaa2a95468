"""`openautoglm.AutoGLMEngine`, as a program uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from openautoglm import AutoGLMEngine
from tests.support.agent import PLUGINS, free_port

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


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False
