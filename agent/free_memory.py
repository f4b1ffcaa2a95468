"""How much of this machine's memory may be taken. Small, since Workers ask it too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes of this machine's that may be taken without swapping, within this process's control groups."""
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
