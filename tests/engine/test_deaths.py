"""A Worker's death, by any cause, costs at most the Requests that had begun to be answered."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.agent import Agent
from tests.support.control_group import control_group

SLOW = {"ECHO_STEP_SECONDS": "0.03", "AUTOGLM_WORKER_DEADLINE_S": "2"}


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(**SLOW)


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group whose processes have 200 MiB together; beyond, the kernel's OOM killer comes."""
    with control_group(200 << 20) as group:
        yield group


@pytest.fixture(autouse=True)
def _ready(agent: Agent) -> Iterator[None]:
    yield
    agent.wait("/readyz")


def stream(agent: Agent, content: str) -> Iterator[str]:
    """The text as it comes; an error event becomes its code in angle brackets."""
    body = {"messages": [{"role": "user", "content": content}], "stream": True}
    with httpx.stream("POST", f"{agent.base_url}/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                yield f"<{event['error']['code']}>"
            elif event["choices"]:
                yield event["choices"][0]["delta"].get("content") or ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_requests_without_a_chunk_are_run_again_and_others_get_an_error(agent: Agent, number: int) -> None:
    begun = stream(agent, "a long answer " * 30)
    while not next(begun):
        pass
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(agent.chat, f"<slow 0.2> {at}") for at in range(4)]
        time.sleep(0.1)
        worker = agent.worker_pid
        assert worker is not None
        os.kill(worker, number)
        assert "<worker_lost>" in list(begun)
        for at, answer in enumerate(waiting):
            assert answer.result().status_code == 200, answer.result().text
            assert str(at) in answer.result().json()["choices"][0]["message"]["content"]
    assert agent.worker_pid != worker


def test_a_worker_that_the_oom_killer_takes_costs_the_others_nothing(
    agent: Agent, small_memory: Path
) -> None:
    worker = agent.worker_pid
    (small_memory / "cgroup.procs").write_text(str(worker))
    with ThreadPoolExecutor(2) as pool:
        greedy = pool.submit(agent.chat, "<eat 400> much")
        neighbour = pool.submit(agent.chat, "<slow 0.05> little")
        assert httpx.get(f"{agent.base_url}/healthz").status_code == 200
        assert [one.result().status_code for one in (greedy, neighbour)] == [200, 200]
    assert agent.worker_pid != worker
    assert 'reason="killed"' in httpx.get(f"{agent.base_url}/metrics").text


def test_the_agent_answers_while_its_worker_hangs_and_readyz_tells_the_truth(agent: Agent) -> None:
    worker = agent.worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    assert httpx.get(f"{agent.base_url}/healthz").status_code == 200
    until = time.monotonic() + 20
    seen = set()
    while time.monotonic() < until and not ({503} <= seen and agent.worker_pid not in (None, worker)):
        seen.add(httpx.get(f"{agent.base_url}/readyz").status_code)
        time.sleep(0.02)
    assert 503 in seen
    agent.wait("/readyz")
    assert agent.chat("again").status_code == 200


def test_a_prompt_that_kills_each_worker_is_given_up_and_its_neighbours_are_answered(agent: Agent) -> None:
    with ThreadPoolExecutor(4) as pool:
        guilty = pool.submit(agent.chat, "<crash> me")
        neighbours = [pool.submit(agent.chat, f"<slow 0.05> innocent {at}") for at in range(3)]
        assert guilty.result().status_code == 500
        assert "3 Workers" in guilty.result().json()["error"]["message"]
        assert [answer.result().status_code for answer in neighbours] == [200, 200, 200]


def test_an_engine_that_fails_a_step_is_replaced(agent: Agent) -> None:
    before = agent.metric("worker_restarts_total")
    assert agent.chat("<fail>").status_code == 500
    assert agent.metric("worker_restarts_total") >= before + 3
    agent.wait("/readyz")
    assert agent.chat("fine").status_code == 200


def test_a_load_that_crashes_is_tried_once_more_before_anybody_is_refused(
    start_agent: Callable[..., Agent], echo_model: Path, tmp_path: Path
) -> None:
    crash, other = tmp_path / "crash", tmp_path / "other.gguf"
    other.write_bytes(echo_model.read_bytes())
    agent = start_agent(ECHO_CRASHES_ONCE=str(crash))
    agent.pull(other, "other")
    crash.touch()
    assert agent.chat("hello", model="other").status_code == 200
    assert not crash.exists()
    lost = next(json.loads(line) for line in agent.log.splitlines() if "worker lost" in line)
    assert "Segmentation fault" in lost["trace"]
    assert "in load" in lost["trace"]


def test_a_worker_that_cannot_load_leaves_the_agent_up_and_unready(
    start_agent: Callable[..., Agent], echo_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(echo_model.read_bytes())
    agent = start_agent(AUTOGLM_MODEL=str(broken), AUTOGLM_ENGINE="nosuch", ready=False)
    until = time.monotonic() + 30
    while "nosuch" not in httpx.get(f"{agent.base_url}/readyz").text and time.monotonic() < until:
        time.sleep(0.1)
    answer = httpx.get(f"{agent.base_url}/readyz")
    assert answer.status_code == 503
    assert "nosuch" in answer.text


def test_a_worker_does_not_outlive_its_agent(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent()
    worker = agent.worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)  # it cannot even notice
    agent.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_the_agent_loads_no_native_inference_code(agent: Agent) -> None:
    maps = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "llama" not in maps
    assert "onnxruntime" not in maps
