"""What a Model needs is predicted within a tenth of what its Worker then has resident."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent import footprint
from agent.frames import Beat, Infer, Ran, Start
from agent.memory import Memory
from agent.offered import Offered
from agent.request import Sampling
from agent.supervisor import Deadlines, Launch, Supervisor
from agent.telemetry import Telemetry
from agent.tensor import Tensor
from models.gguf import read_header
from tests.support.bert import Bert

CONTEXTS = {512: 8, 4096: 4, 16384: 2}  # tokens -> slots
LONG, SHORT, ANSWER = 128, 4, 2  # tokens

TOLERANCE = 0.25 if "amx_int8" in footprint.cpu_features() else 0.1
"""What llama.cpp copies of weights for AMX is known from its source alone: a little more than predicted."""


class Heard:
    """In a lane's place: it counts what has been answered."""

    def __init__(self) -> None:
        self.answers = 0
        self.refused: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def worker_ready(self, info: Any) -> None: ...

    def worker_said(self, news: Beat | Ran) -> None:
        if isinstance(news, Ran):
            self.answers += sum(one.outputs is not None for one in news.answered)
        else:
            self.answers += sum(one.chunk is not None and bool(one.chunk.finish) for one in news.said)
            self.refused += [(one.code, one.message) for one in news.said if one.chunk is None]
        self.changed.set()

    def worker_lost(self, reason: str, *, died: bool) -> None:
        assert not died, reason


async def worked(engine: str, model: Offered, how: dict[str, Any], work: list[Start] | list[Infer]) -> int:
    """Bytes that a Worker has resident when it has done that work, all at once."""
    heard = Heard()
    launch = Launch(model.name, "1", engine, model.path, how)
    supervisor = Supervisor(launch, heard, Deadlines(60, 60), Telemetry().model(model.name, model.version))
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        await supervisor.settled.wait()
        for one in work:
            supervisor.send(one)
        async with asyncio.timeout(60):
            while heard.answers < len(work):
                heard.changed.clear()
                await heard.changed.wait()
        measured = resident(supervisor.pid)
        await supervisor.stop()
    return measured


def prompts(slots: int) -> list[Start]:
    """Work for all slots: a long prompt, and short ones."""
    how = Sampling(ignore_eos=True)
    return [
        Start(str(slot), [100 + slot] * (SHORT if slot else LONG), how, ANSWER, (), 1, 5, None, attempt=1)
        for slot in range(slots)
    ]


def texts() -> list[Start]:
    """A text that fills a step, and one that shares the next with its end."""
    whole = Start("embed", [100] * 200, Sampling(), 0, (), 1, 5, None, attempt=1, embed=True)
    return [whole, structs.replace(whole, id="other", prompt=[100] * 60)]


def need(model: Offered, how: dict[str, Any]) -> int:
    """Bytes, predicted for a machine whose memory is all there is."""
    predicted = Memory(gpu=None).need(model, how)
    assert predicted.gpu == 0
    return predicted.machine


def resident(pid: int | None) -> int:
    """Bytes: RSS, mapped files and shared libraries counted whole."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def settings(context: int, **changed: Any) -> dict[str, Any]:
    return {
        "slots": CONTEXTS[context],
        "context": context,
        "threads": 1,
        "gpu_layers": 0,
        "kv_type": "q8_0",
        "flash_attention": "on",
        "step_tokens": 512,
        "step_target_ms": 50,
        "prefill_piece": LONG,  # in one step: what a step takes does not hang on how busy this machine is
        **changed,
    }


@pytest.fixture(scope="module")
def magika(magika_path: Path) -> Offered:
    return Offered("magika", "1", str(magika_path), magika_path.stat().st_size, 0)


@pytest.fixture(scope="module")
def models(model_path: Path, gemma_path: Path) -> dict[str, Offered]:
    paths = {"smollm2": model_path, "gemma3": gemma_path}
    headers = {name: read_header(path) for name, path in paths.items()}
    return {
        name: Offered(name, "1", str(paths[name]), header.size, 0, header=header)
        for name, header in headers.items()
    }


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_the_need_of_a_text_model_is_predicted_within_a_tenth(
    models: dict[str, Offered], name: str, context: int
) -> None:
    both = [settings(context, kv_type=kind) for kind in ("q8_0", "f16")]
    measured = await asyncio.gather(
        *(worked("llama", models[name], one, prompts(one["slots"])) for one in both)
    )
    assert measured == pytest.approx([need(models[name], one) for one in both], rel=TOLERANCE)


@pytest.mark.parametrize("context", [512, 4096])
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_what_embeddings_take_beside_the_answers_is_predicted_within_a_tenth(
    models: dict[str, Offered], name: str, context: int
) -> None:
    how = settings(context)
    measured = await worked("llama", models[name], how, prompts(how["slots"]) + texts())
    predicted = need(models[name], how) + Memory(gpu=None).to_embed(models[name], how).machine
    assert measured == pytest.approx(predicted, rel=TOLERANCE)


async def test_the_need_of_an_encoder_is_predicted_within_a_tenth(tmp_path: Path) -> None:
    path = Bert().write_gguf(tmp_path / "bert.gguf")
    header = read_header(path)
    model = Offered("bert", "1", str(path), header.size, 0, header=header)
    how = {**settings(512), "context": 64, "encoder": True}
    work = [structs.replace(texts()[0], id=str(at), prompt=[7] * 64) for at in range(16)]
    assert await worked("llama", model, how, work) == pytest.approx(need(model, how), rel=TOLERANCE)
    assert Memory(gpu=None).to_embed(model, how).machine == 0


async def test_embeddings_for_which_there_is_no_memory_are_refused_with_the_numbers(
    models: dict[str, Offered],
) -> None:
    heard = Heard()
    how = settings(512) | {"embed_need": 1 << 50}
    launch = Launch("smollm2", "1", "llama", models["smollm2"].path, how)
    supervisor = Supervisor(launch, heard, Deadlines(60, 60), Telemetry().model("smollm2", "1"))
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        await supervisor.settled.wait()
        for one in (*texts(), *prompts(1)):
            supervisor.send(one)
        async with asyncio.timeout(60):
            while not heard.answers or len(heard.refused) < 2:
                heard.changed.clear()
                await heard.changed.wait()
        await supervisor.stop()
    assert all(code == "model_unavailable" for code, _ in heard.refused)
    assert all("need about 1,125,899,907 MB of memory more, and" in says for _, says in heard.refused)


def test_a_second_copy_of_the_weights_is_counted_where_llama_cpp_makes_one_for_the_cpu(
    models: dict[str, Offered],
) -> None:
    def copies(name: str, *features: str, **changed: Any) -> float:
        header, how = models[name].header, settings(512, **changed)
        assert header is not None
        with_them = footprint.of_text(header, how, frozenset(features))
        return (with_them.machine - footprint.of_text(header, how, frozenset()).machine) / 2**20

    assert copies("gemma3", "avx2", "fma") == pytest.approx(12.66, abs=0.01)  # as llama.cpp says at its load
    assert copies("gemma3", "avx2", extra_bufts=False) == 0
    assert copies("smollm2", "avx2") == 0  # no Q4_1 there
    assert copies("smollm2", "amx_int8") > 80  # and the embedding, which is the output's matrix too


@pytest.mark.parametrize("lone_threads", [None, 2])
async def test_the_need_of_a_model_of_tensors_is_predicted_within_a_quarter(
    magika: Offered, lone_threads: int | None
) -> None:
    how = {"threads": 1, "runners": 2, "gpu": False, "cap": 1, "opt_batch_size": 1, "delay_ms": 0.0}
    how["lone_threads"] = lone_threads
    row = Tensor("bytes", "INT32", (1, 2048), bytes(4 * 2048))
    work = [Infer(str(at), (row,), (), 5, None) for at in range(8)]
    measured = await worked("onnx", magika, {**how, "run_deadline_s": 30}, work)
    assert measured == pytest.approx(need(magika, how), rel=0.25)
