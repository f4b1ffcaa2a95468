"""A new Version is loaded by drain and swap: no Request is dropped, and a bad one is taken back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent import NO_TLS, Agent, free_port
from tests.support.control_group import control_group
from tests.support.gguf_file import MINIMAL, write_gguf


def pull(agent: Agent, source: Path) -> list[dict[str, Any]]:
    """What the agent tells of a pull, row by row."""
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        answer = client.post("/api/pull", json={"source": str(source), "name": "echo"})
        return [json.loads(line) for line in answer.text.splitlines()]


def version(agent: Agent) -> str:
    name: str = agent.status()["models"][0]["version"]
    return name


def test_a_swap_drops_no_request(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start_agent(ECHO_STEP_SECONDS="0.01")
    before = version(agent)
    newer = write_gguf(tmp_path / "newer.gguf", salt=1)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(agent.chat, f"request {at} " + "x" * 30) for at in range(24)]
        time.sleep(0.1)
        rows = pool.submit(pull, agent, newer)
        answers += [pool.submit(agent.chat, f"later {at}") for at in range(8)]
        assert [one.result().status_code for one in answers] == [200] * len(answers)
    assert rows.result()[-1]["version"] == version(agent) != before
    assert agent.metric("worker_restarts_total") == 0


def test_the_new_version_is_loaded_beside_the_old_one_which_serves_until_then(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent(ECHO_STEP_SECONDS="0.02")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(agent.chat, "x" * 150)
        time.sleep(0.2)
        pulled = pool.submit(pull, agent, write_gguf(tmp_path / "newer.gguf", salt=1))
        assert agent.chat("meanwhile").status_code == 200
        assert not running.done()
        assert running.result().status_code == 200
        pulled.result()
    assert "nobody was served" not in agent.log


WIDE = {
    **MINIMAL,
    "llama.block_count": 32,
    "llama.embedding_length": 2048,
}  # GBs of cache, as far as one can tell


@pytest.mark.parametrize("salt", [1, 13], ids=["that loads", "that does not load"])
def test_where_memory_cannot_hold_both_the_old_version_goes_first_and_no_request_is_dropped(
    start_agent: Callable[..., Agent], tmp_path: Path, salt: int
) -> None:
    model = write_gguf(tmp_path / "echo.gguf", WIDE)
    agent = start_agent(AUTOGLM_MODEL=str(model), AUTOGLM_CONTEXT="1024", AUTOGLM_MAX_BATCH_SIZE="8")
    before = version(agent)
    with control_group(1 << 30) as group, ThreadPoolExecutor(8) as pool:
        (group / "cgroup.procs").write_text(str(agent.pid))
        newer = write_gguf(tmp_path / "newer.gguf", WIDE, salt=salt)
        rows = pool.submit(pull, agent, newer)
        answers = [pool.submit(agent.chat, f"request {at}") for at in range(24)]
        assert [one.result().status_code for one in answers] == [200] * 24
        last = rows.result()[-1]
        if salt == 13:
            assert "does not load" in last["error"]["message"]
            assert version(agent) == before
        else:
            assert last["version"] == version(agent) != before
            assert "nobody was served" in agent.log
        assert agent.chat("still here").status_code == 200
        agent.stop()


def test_after_a_swap_the_former_version_can_be_removed_and_the_served_one_cannot(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent()
    before = version(agent)
    pull(agent, write_gguf(tmp_path / "newer.gguf", salt=1))
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        refused = client.delete(f"/api/models/echo:{version(agent)}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        gone = client.delete(f"/api/models/echo:{before}").json()
        assert [row["version"] for row in gone] == [before]
        assert client.delete(f"/api/models/echo:{before}").status_code == 404
    assert agent.chat("still here").status_code == 200


def test_a_version_that_does_not_load_is_taken_back(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent()
    before = version(agent)
    rows = pull(agent, write_gguf(tmp_path / "bad.gguf", salt=13))
    assert "does not load" in rows[-1]["error"]["message"]
    agent.wait("/readyz")
    assert version(agent) == before
    assert agent.chat("still here").json()["choices"][0]["message"]["content"] == "still here"


def test_a_swap_goes_on_when_whoever_asked_for_it_hangs_up(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent(ECHO_STEP_SECONDS="0.02")
    before = version(agent)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.chat, "x" * 50)  # the swap waits for it
        time.sleep(0.2)
        body = json.dumps({"source": str(write_gguf(tmp_path / "newer.gguf", salt=1)), "name": "echo"})
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(agent.socket))
            head = f"POST /api/pull HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            caller.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            told = b""
            while b'"load"' not in told:
                told += caller.recv(65536)
        assert running.result().status_code == 200
    until = time.monotonic() + 20
    while version(agent) == before and time.monotonic() < until:
        time.sleep(0.05)
    agent.wait("/readyz")
    assert version(agent) != before
    assert agent.chat("hello").status_code == 200


def test_a_pull_mends_a_node_that_had_no_model(start_agent: Callable[..., Agent], echo_model: Path) -> None:
    agent = start_agent(AUTOGLM_MODEL="/nonexistent.gguf", ready=False)
    assert httpx.get(f"{agent.base_url}/readyz").status_code == 503
    pull(agent, echo_model)
    agent.wait("/readyz")
    assert agent.chat("hello").status_code == 200


def test_a_damaged_model_on_the_shelf_leaves_the_agent_up(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent()
    agent.stop()
    (blob,) = (agent.data_dir / "models" / "blobs").iterdir()
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(b"\0" * 8 + data[8:])
    agent.environment["AUTOGLM_MODEL"] = "echo"
    agent.start(ready=False)
    until = time.monotonic() + 20
    while "GGUF" not in httpx.get(f"{agent.base_url}/readyz").text and time.monotonic() < until:
        time.sleep(0.05)
    assert "not a GGUF file" in httpx.get(f"{agent.base_url}/readyz").text


def test_a_model_pulled_by_hand_goes_on_serving_where_the_configured_one_cannot_be_had(
    start_agent: Callable[..., Agent], echo_model: Path
) -> None:
    """And no password of the one that cannot be had is shown."""
    url = f"http://user:s3cret@127.0.0.1:{free_port()}/m.gguf?token=s3cret"
    agent = start_agent(AUTOGLM_MODEL=url, ready=False)
    told = httpx.get(f"{agent.base_url}/readyz")
    assert told.status_code == 503
    pull(agent, echo_model)
    agent.wait("/readyz")
    assert agent.chat("by hand").json()["choices"][0]["message"]["content"] == "by hand"
    assert "s3cret" not in told.text + json.dumps(agent.status())


def test_a_worker_comes_back_where_the_agent_has_a_thousand_connections(
    start_agent: Callable[..., Agent],
) -> None:
    agent = start_agent()
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", agent.port)))
        worker = agent.worker_pid_by_socket()
        os.kill(worker, signal.SIGKILL)
        until = time.monotonic() + 20
        while agent.worker_pid_by_socket() == worker and time.monotonic() < until:
            time.sleep(0.05)
        assert agent.worker_pid_by_socket() != worker
    agent.wait("/readyz")
    assert agent.metric("worker_restarts_total") == 1


def test_a_file_of_the_current_folder_is_not_taken_for_a_library(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "jinja2.py").write_text("raise SystemExit('not this one')")
    agent = start_agent(cwd=tmp_path)
    assert agent.chat("fine").status_code == 200
    agent.stop()


def test_a_second_start_needs_no_source(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "gone.gguf", salt=2)
    agent = start_agent(AUTOGLM_MODEL=str(model))
    agent.stop()
    model.unlink()
    agent.environment["AUTOGLM_MODEL"] = "gone"
    agent.start()
    assert agent.chat("hello").status_code == 200
