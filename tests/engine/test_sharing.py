"""Models share the CPU on purpose: what loads gives way, and each has the share that is set for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agent import sharing
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.upstream import Upstream

pytestmark = pytest.mark.skipif(not sharing.may_return(), reason="no right to come back from a lower level")


def levels(pid: int) -> set[int]:
    """Of all threads of a process."""
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


def worker_of(agent: Agent) -> int | None:
    """Its first Worker, which may load still."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next((pid for pid, command in commands.items() if b"\0worker\0" in command), None)


def test_a_worker_that_loads_gives_way_and_has_its_share_when_it_answers(
    start_agent: Callable[..., Agent], model_path: Path
) -> None:
    agent = start_agent(
        ready=False,
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(model_path),
        AUTOGLM_KV_TYPE="q8_0",
        AUTOGLM_MODELS=json.dumps({model_path.stem: {"cpu_share": 0.5}}),
    )
    seen: set[int] = set()
    until = time.monotonic() + 60
    while httpx.get(f"{agent.base_url}/readyz").status_code != 200:
        assert time.monotonic() < until, agent.log[-2000:]
        if worker := worker_of(agent):
            seen |= levels(worker)
        time.sleep(0.02)
    assert sharing.ASIDE in seen
    assert agent.worker_pid is not None
    assert levels(agent.worker_pid) == {3}  # 1.25 ** -3 is about a half
    agent.stop()


def test_the_worker_of_a_remote_model_comes_back_too(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    there = Upstream(gets={"/v1/models": {"data": [{"id": "theirs"}]}}, good=does.answer("well")).start()
    file = tmp_path / "far.toml"
    file.write_text(f'engine = "openai"\nurl = "{there.url}"\nmodel = "theirs"\n')
    agent = start_agent(AUTOGLM_MODEL=str(file))
    assert agent.worker_pid is not None
    assert levels(agent.worker_pid) == {0}
    agent.stop()
    there.stop()


def test_without_a_share_that_is_set_all_are_equal(echo_agent: Agent) -> None:
    assert echo_agent.worker_pid is not None
    assert levels(echo_agent.worker_pid) == {0}
