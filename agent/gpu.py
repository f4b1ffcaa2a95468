"""Memory that only the GPU has, as NVIDIA's driver tells it. Unified memory is the machine's: see memory.py.

What is asked is NVML, through `pynvml`; where no driver is, it is not even imported. Not tried on a GPU yet.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import structlog

NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu")  # of a card, and of a Jetson
INTEGRATED = ("Orin", "Thor", "Xavier", "Tegra", "nvgpu", "GB10")
"""In the names of GPUs that have no memory of their own: newer drivers tell the machine's as theirs."""

log = structlog.get_logger()


class MemoryInfo(Protocol):
    """Bytes."""

    @property
    def total(self) -> int: ...
    @property
    def free(self) -> int: ...


class Nvml(Protocol):
    """What is used of `pynvml`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> Any: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any, /) -> str: ...
    def nvmlDeviceGetUUID(self, handle: Any, /) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> MemoryInfo: ...


def is_visible() -> bool:
    """Whether an NVIDIA driver is here, on a card or a Jetson; the engines' builds may still not use it."""
    return any(Path(node).exists() for node in NODES)


def engines() -> frozenset[str]:
    """Those whose installed build can compute on a GPU. Finds files, loads nothing."""
    found = set()
    llama = importlib.util.find_spec("llama_cpp")
    if llama and llama.origin and (Path(llama.origin).parent / "lib" / "libggml-cuda.so").exists():
        found.add("llama")
    try:
        metadata.version("onnxruntime-gpu")
        found.add("onnx")
    except metadata.PackageNotFoundError:
        pass
    return frozenset(found)


@dataclass(frozen=True)
class Gpu:
    """All GPUs with memory of their own that this process may use, taken as one. `engines` compute there."""

    nvml: Nvml
    handles: tuple[Any, ...]
    engines: frozenset[str]

    def free(self) -> int:
        """Bytes. Of a GPU that is lost there are none. Waits on the driver."""
        return sum(self._free(handle) for handle in self.handles)

    def _free(self, handle: Any) -> int:
        try:
            return int(self.nvml.nvmlDeviceGetMemoryInfo(handle).free)
        except self.nvml.NVMLError as error:
            log.error("a GPU does not tell its memory", error=str(error))
            return 0


def find() -> Gpu | None:
    """None: there is no GPU, none of the engines can use it, or it shares the machine's memory."""
    if not is_visible() or not (able := engines()):
        return None
    import pynvml

    return discrete(pynvml, able)


def discrete(nvml: Nvml, able: frozenset[str]) -> Gpu | None:
    """As `find`, of the GPUs that this NVML knows."""
    try:
        nvml.nvmlInit()
        handles = tuple(handle for handle in _visible(nvml) if _has_own(nvml, handle))
    except nvml.NVMLError as error:  # a Jetson that has none, or a container without the driver's libraries
        log.info("NVML does not answer: a GPU's memory is taken for the machine's", error=str(error))
        return None
    return Gpu(nvml, handles, able) if handles else None


def _visible(nvml: Nvml) -> Iterator[Any]:
    """What CUDA_VISIBLE_DEVICES leaves, by number or by the beginning of a UUID.

    NVML's order is that of the bus; CUDA's may be another where the cards differ.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        yield from handles
        return
    for one in map(str.strip, wanted.split(",")):
        if one.isdecimal() and int(one) < len(handles):
            yield handles[int(one)]
        elif one.startswith("GPU-"):
            yield from (handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(one))
        else:
            return  # as CUDA does it: what follows is not seen


def _has_own(nvml: Nvml, handle: Any) -> bool:
    """Whether it has memory that is not the machine's."""
    if any(name in nvml.nvmlDeviceGetName(handle) for name in INTEGRATED):
        return False
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle).total > 0
    except nvml.NVMLError as error:  # "Not Supported" is what unified memory says
        log.info("a GPU's memory is taken for the machine's", error=str(error))
        return False
