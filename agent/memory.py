"""How much memory a Model takes once it is loaded, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.offered import Offered
from models.errors import ModelError
from models.gguf import Header

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # for each number
PROCESS = 96 << 20  # bytes of a Worker before it loads anything
CGROUPS = Path("/sys/fs/cgroup")


class NoMemory(ModelError):
    def __init__(self, model: str, need: int, there: int) -> None:
        super().__init__(
            f"{model} needs about {need / 1e6:,.0f} MB of memory, and {there / 1e6:,.0f} MB are available:"
            " unload another model, or make AUTOGLM_CONTEXT or AUTOGLM_MAX_BATCH_SIZE smaller"
        )


def need(offered: Offered, settings: Mapping[str, Any]) -> int:
    """Bytes that a Worker will have resident, predicted from the file's header and the engine's settings."""
    header = offered.header
    if header is None:
        return PROCESS + 2 * offered.size  # the weights, and onnxruntime's own arrangement of them
    slots, context = int(settings["slots"]), int(settings["context"])
    cache = 0 if header.encoder else slots * context * kv_bytes(header, str(settings["kv_type"]))
    return PROCESS + offered.size + int(cache) + _compute(header, int(settings["step_tokens"]))


def kv_bytes(header: Header, kv_type: str) -> float:
    """Of one token, over all layers."""
    return header.kv_width * KV_BYTES.get(kv_type, KV_BYTES["f16"])


def _compute(header: Header, tokens: int) -> int:
    """What llama.cpp allocates for a step of so many tokens: the logits, and a layer's activations."""
    return 4 * tokens * (header.vocabulary + 12 * header.embedding_length)


def available() -> int:
    """Bytes that may be taken without swapping, on this machine and within this process's control groups."""
    return max(0, min([_machine(), *_groups()]))


def _machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _groups() -> Iterator[int]:
    """What is left of each limit that a control group above this process sets; version 2 and 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, cache = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage, cache = (
                CGROUPS / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        inside = root / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if not folder.is_relative_to(root):
                break
            try:
                most = (folder / limit).read_text().strip()
                if most != "max":
                    used = int((folder / usage).read_text())
                    yield int(most) - used + _field(folder / "memory.stat", cache)
            except (OSError, ValueError):  # not mounted, or the root, which has no limit
                continue


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0
