"""A GPU's own memory is told apart from the machine's. The driver is a fake: there was none to try it on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pynvml
import pytest

from agent import device, gpu
from agent.config import Settings
from agent.memory import Memory, NoMemory
from agent.offered import Offered
from agent.replica import Prepared
from agent.room import make_room
from agent.space import Space
from agent.supervisor import Launch
from models.gguf import read_header

GB = 1_000_000_000
UNIFIED = pynvml.NVML_ERROR_NOT_SUPPORTED  # what the driver says of a Jetson and of a GB10


class Told(NamedTuple):
    total: int
    free: int


@dataclass
class Card:
    """A GPU; an error number in place of the memory that it would tell."""

    memory: Told | int
    name: str = "NVIDIA RTX A2000"


class Driver:
    """Takes the place of `pynvml`, with as much of it as `gpu.Nvml` says."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *cards: Card, down: bool = False) -> None:
        self.cards = cards
        self.down = down

    def nvmlInit(self) -> None:
        if self.down:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetName(self, device: Card) -> str:
        return device.name

    def nvmlDeviceGetUUID(self, handle: Card) -> str:
        return f"GPU-{self.cards.index(handle)}{'0' * 7}-0000-0000-0000-000000000000"

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> Told:
        if isinstance(handle.memory, int):
            raise pynvml.NVMLError(handle.memory)
        return handle.memory


def card(free: float, name: str = "NVIDIA RTX A2000") -> Card:
    """With so many GB free."""
    return Card(Told(12 * GB, int(free * GB)), name)


def found(*cards: Card, down: bool = False) -> gpu.Gpu | None:
    return gpu.discrete(Driver(*cards, down=down), frozenset({"llama", "onnx"}))


@dataclass
class Idle:
    """A Model that is loaded and has nothing to do."""

    model: str
    need: Space
    gone: list[str]
    idle_for: float = 1.0
    loaded: bool = True
    pinned: bool = False
    idle: bool = True

    def idle_s(self, now: float) -> float:
        return self.idle_for

    async def unload(self) -> None:
        self.gone.append(self.model)


@pytest.fixture
def model(model_path: Path) -> Offered:
    header = read_header(model_path)
    return Offered("smollm2", "1", str(model_path), header.size, 0, header=header)


@pytest.fixture(autouse=True)
def all_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


SETTINGS: dict[str, Any] = {
    "slots": 4,
    "context": 4096,
    "threads": 1,
    "gpu_layers": None,
    "kv_type": "q8_0",
    "flash_attention": "on",
    "step_tokens": 512,
}


def prepared(need: Space) -> Prepared:
    return Prepared(Offered("new", "1", "", 0, 0), Launch("new", "1", "llama", "", {}), need)


def test_the_real_library_has_all_that_is_asked_of_it() -> None:
    asked = [name for name in vars(gpu.Nvml) if name.startswith("nvml")]
    assert asked
    for name in asked:
        given = len(inspect.signature(getattr(gpu.Nvml, name)).parameters) - 1
        inspect.signature(getattr(pynvml, name)).bind(*[None] * given)
    assert {"total", "free"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}


@pytest.mark.skipif(gpu.is_visible(), reason="a GPU is here")
async def test_where_no_driver_is_all_memory_is_the_machines() -> None:
    assert gpu.find() is None
    assert gpu.discrete(pynvml, frozenset({"llama"})) is None
    there = await Memory(gpu.find()).available()
    assert (there.machine > 0, there.gpu) == (True, 0)


SHARED = {
    "it says so": Card(UNIFIED),
    "it has none": Card(Told(0, 0)),
    "it tells the machine's as its own": card(100, "NVIDIA GB10"),
    "a Jetson that tells the machine's": card(8, "NVIDIA Jetson AGX Orin (nvgpu)"),
}


@pytest.mark.parametrize("how", SHARED)
async def test_unified_memory_is_the_machines(model: Offered, how: str) -> None:
    memory = Memory(found(SHARED[how]))
    assert (await memory.available()).gpu == 0
    assert memory.need(model, SETTINGS) == Memory(None).need(model, SETTINGS)


def test_a_driver_that_is_not_loaded_is_no_gpu() -> None:
    assert found(card(8), down=True) is None


async def test_what_is_free_on_all_visible_gpus_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def free(*cards: Card) -> int:
        return (await Memory(found(*cards)).available()).gpu

    two = card(8), card(3)
    assert await free(*two) == 11 * GB
    assert await free(card(8), Card(UNIFIED)) == 8 * GB
    for visible, there in {"1": 3, "0,1": 11, "GPU-1": 3, "": 0, "-1": 0, "0,-1,1": 8, "7": 0}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert await free(*two) == there * GB, visible


async def test_a_gpu_that_is_lost_has_no_memory() -> None:
    lost = card(8)
    memory = Memory(found(lost))
    lost.memory = pynvml.NVML_ERROR_GPU_IS_LOST
    assert (await memory.available()).gpu == 0


def test_layers_on_the_gpu_take_its_memory_and_none_of_the_machines(model: Offered) -> None:
    assert model.header is not None
    memory, header = Memory(found(card(8))), model.header
    needs = [memory.need(model, {**SETTINGS, "gpu_layers": many}) for many in (0, 1, 16, 31, None)]
    layer = sum(header.blocks) / header.layers
    for (one, more), layers in zip(((1, 2), (2, 3), (3, 4)), (15, 15, 0), strict=True):
        moved = needs[more].gpu - needs[one].gpu
        cache = 4 * 4096 * header.kv_width * 34 / 32 / header.layers
        assert moved == pytest.approx(layers * (layer + cache), rel=0.01)
        assert needs[one].machine - needs[more].machine >= moved - 2  # bytes, of rounding
    assert needs[4].machine < needs[2].machine < needs[0].machine
    assert needs[0].gpu < needs[1].gpu  # the head, which is the tokens' embedding too, and stays here as that
    everything = Memory(None).need(model, SETTINGS).machine
    assert needs[4].gpu > 0.5 * everything


def test_an_onnx_model_takes_the_gpus_memory_where_its_engine_can_compute_there() -> None:
    model = Offered("magika", "1", "", 3_000_000, 0)
    able, unable = Memory(found(card(8))), Memory(gpu.discrete(Driver(card(8)), frozenset({"llama"})))
    assert able.need(model, {"gpu": True}).gpu > 2 * model.size
    assert able.need(model, {"gpu": False}).gpu == unable.need(model, {"gpu": True}).gpu == 0


REFUSED = {
    "the GPU's": (Space(1 * GB, 9 * GB), "9,000 MB of the GPU's memory, and 8,000 MB are available", True),
    "the machine's": (Space(900_000 * GB, 1 * GB), "900,000,000 MB of memory, and", False),
}


@pytest.mark.parametrize("short", REFUSED)
async def test_a_refusal_names_the_memory_that_is_short_and_unloads_nothing(short: str) -> None:
    need, says, layers = REFUSED[short]
    gone: list[str] = []
    with pytest.raises(NoMemory, match=says) as refused:
        await make_room(prepared(need), Memory(found(card(8))), [Idle("a", Space(GB, GB // 2), gone)])
    assert ("AUTOGLM_GPU_LAYERS" in str(refused.value), str(refused.value).count("available")) == (layers, 1)
    assert gone == []


async def test_only_what_has_some_of_the_memory_that_is_short_is_unloaded() -> None:
    gone: list[str] = []
    idle = [Idle("here", Space(2 * GB, 0), gone, idle_for=9), Idle("there", Space(0, 4 * GB), gone)]
    assert not await make_room(
        prepared(Space(1, 10 * GB)), Memory(found(card(8))), idle
    )  # none is freed by it
    assert gone == ["there"]


async def test_there_are_as_many_slots_as_the_gpus_memory_has_room_for(model: Offered) -> None:
    settings = Settings(engine="echo", context=4096)

    async def slots(free: float, of: Offered = model) -> int:
        return int((await device.engine_settings(settings, of, Memory(found(card(free)))))["slots"])

    most = device.DEFAULT_SLOTS if gpu.is_visible() else device.CPU_SLOTS
    assert [await slots(free) for free in (0.2, 1.2, 100)] == [1, 2, most]
    assert await slots(0.2, replace(model, header=None)) == device.DEFAULT_SLOTS
