"""What a Model needs is predicted within a tenth of what its Worker then has resident."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent import memory
from agent.frames import Beat, Start
from agent.offered import Offered
from agent.request import Sampling
from agent.supervisor import Deadlines, Launch, Supervisor
from agent.telemetry import Telemetry
from models.gguf import read_header

CONTEXTS = {512: 8, 4096: 4, 16384: 2}  # tokens -> slots
LONG, SHORT, ANSWER = 480, 16, 4  # tokens


class Heard:
    """A lane's place: it counts what has been answered."""

    def __init__(self) -> None:
        self.finished = 0
        self.changed = asyncio.Event()

    def worker_ready(self, info: Any) -> None:
        self.info = info

    def worker_said(self, news: Beat) -> None:
        self.finished += sum(said.chunk is not None and bool(said.chunk.finish) for said in news.said)
        self.changed.set()

    def worker_lost(self, reason: str, *, died: bool) -> None:
        assert not died, reason


@contextlib.asynccontextmanager
async def worker(launch: Launch) -> AsyncIterator[tuple[Supervisor, Heard]]:
    heard = Heard()
    supervisor = Supervisor(launch, heard, Deadlines(60, 60), Telemetry().model(launch.model))
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        await supervisor.settled.wait()
        yield supervisor, heard
        await supervisor.stop()


async def work(supervisor: Supervisor, heard: Heard, slots: int) -> None:
    """All slots at once: one with a long prompt, the others with short ones."""
    for slot in range(slots):
        prompt = [100 + slot] * (SHORT if slot else LONG)
        supervisor.send(
            Start(str(slot), prompt, Sampling(ignore_eos=True), ANSWER, (), 1, 5, None, attempt=1)
        )
    async with asyncio.timeout(60):
        while heard.finished < slots:
            heard.changed.clear()
            await heard.changed.wait()


def resident(pid: int | None) -> int:
    """Bytes: RSS, mapped files and shared libraries counted whole."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def settings(context: int, **changed: Any) -> dict[str, Any]:
    return {
        "slots": CONTEXTS[context],
        "context": context,
        "threads": 2,
        "gpu_layers": 0,
        "kv_type": "q8_0",
        "flash_attention": "on",
        "step_tokens": 512,
        "step_target_ms": 50,
        "prefill_piece": None,
        **changed,
    }


@pytest.fixture(scope="module")
def models(model_path: Path, gemma_path: Path) -> dict[str, Offered]:
    paths = {"smollm2": model_path, "gemma3": gemma_path}
    headers = {name: read_header(path) for name, path in paths.items()}
    return {
        name: Offered(name, "1", str(paths[name]), header.size, 0, header=header)
        for name, header in headers.items()
    }


@pytest.mark.parametrize("kv_type", ["q8_0", "f16"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
async def test_the_need_of_a_text_model_is_predicted_within_a_tenth(
    models: dict[str, Offered], model: str, context: int, kv_type: str
) -> None:
    one, how = models[model], settings(context, kv_type=kv_type)
    predicted = memory.need(one, how)
    async with worker(Launch(one.name, "1", "llama", one.path, how)) as (supervisor, heard):
        await work(supervisor, heard, how["slots"])
        measured = resident(supervisor.pid)
    print(f"{model} {context} {kv_type}: {predicted / 1e6:.0f} MB predicted, {measured / 1e6:.0f} MB there, {predicted / measured - 1:+.1%}")
    assert measured == pytest.approx(predicted, rel=0.1)
