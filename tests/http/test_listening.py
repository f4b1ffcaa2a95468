"""The two sockets: who gets them, what is left of them, and a good end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.http.wire import dial, post
from tests.support.agent import NO_TLS, Agent
from tests.support.gguf_file import MINIMAL, gguf_bytes


def by_socket(agent: Agent) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS),
        base_url="http://agent",
        timeout=60,
    )


def test_the_socket_is_the_agents_users_own_and_asks_for_no_key(guarded_agent: Agent) -> None:
    mode = guarded_agent.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    with by_socket(guarded_agent) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/status", "/v1/models", "/api/models"):
            assert client.get(path).status_code == 200


def test_a_pull_by_the_socket_tells_its_progress_and_the_version(echo_agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "other.gguf"
    file.write_bytes(gguf_bytes(MINIMAL, salt=7))
    with by_socket(echo_agent) as client:
        rows = [
            httpx.Response(200, content=line).json()
            for line in client.post("/api/pull", json={"source": str(file), "name": "other"}).iter_lines()
        ]
        assert all({"phase", "done", "total"} <= row.keys() for row in rows[:-1])
        assert rows[-1].keys() >= {"model", "version", "path"}
        shelf = {row["model"]: row for row in client.get("/api/models").json()}
    assert shelf["other"]["version"] == rows[-1]["version"]
    assert (shelf["other"]["loaded"], shelf["echo"]["loaded"]) == (False, True)


@pytest.mark.parametrize("source", ["/nonexistent/model.gguf", "no-such-model-anywhere"])
def test_a_pull_that_fails_ends_with_the_error(echo_agent: Agent, source: str) -> None:
    with by_socket(echo_agent) as client:
        rows = list(client.post("/api/pull", json={"source": source}).iter_lines())
    assert httpx.Response(200, content=rows[-1]).json()["error"]["message"]


@pytest.mark.parametrize("body", [{}, {"source": ""}, {"source": 5}, {"source": "a\0b"}])
def test_a_pull_of_nothing_is_a_400(echo_agent: Agent, body: dict[str, object]) -> None:
    with by_socket(echo_agent) as client:
        answer = client.post("/api/pull", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source")


def test_a_taken_port_is_named_with_what_to_do(echo_agent: Agent, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("autoglm")), "serve"],
        env={
            "AUTOGLM_DATA_DIR": str(tmp_path),
            "AUTOGLM_HTTP_PORT": str(echo_agent.port),
            "AUTOGLM_CONFIG": os.devnull,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert str(echo_agent.port) in done.stderr
    assert "AUTOGLM_HTTP_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_killed_agent_left_is_replaced(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent()
    agent.kill()
    assert agent.socket.exists()
    agent.start()
    with by_socket(agent) as client:
        assert client.get("/healthz").status_code == 200
    assert agent.stop() == 0
    assert not agent.socket.exists()


def test_an_answer_that_runs_at_the_end_still_ends_well(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent()
    with dial(agent) as client:
        message = {"role": "user", "content": "<slow 0.1>ten tokens"}
        client.sendall(post("/v1/chat/completions", {"messages": [message], "stream": True}))
        seen = client.recv(4096)
        assert b"200 OK" in seen
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        while piece := client.recv(65536):
            seen += piece
    assert b"data: [DONE]" in seen
    assert agent.process.wait(30) == 0
