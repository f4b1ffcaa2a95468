"""How much memory a Model takes once it is loaded, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import footprint
from agent.offered import Offered
from models.errors import ModelError

CGROUPS = Path("/sys/fs/cgroup")


class NoMemory(ModelError):
    def __init__(self, model: str, need: int, there: int) -> None:
        super().__init__(
            f"{model} needs about {need / 1e6:,.0f} MB of memory, and {there / 1e6:,.0f} MB are available:"
            " unload another model, or make AUTOGLM_CONTEXT or AUTOGLM_MAX_BATCH_SIZE smaller"
        )


def need(offered: Offered, settings: Mapping[str, Any]) -> int:
    """Bytes that a Worker will have resident at most. Settings as `device.engine_settings` gives them.

    Of the layers that go to a discrete GPU too: what they take there is not told apart.
    """
    if offered.header is None:
        return footprint.of_tensors(offered.size, settings)
    return footprint.of_text(offered.header, settings, footprint.cpu_features())


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
