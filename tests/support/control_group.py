"""Less memory than the machine has, by a real control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def control_group(memory: int) -> Iterator[Path]:
    """A group whose processes have so many bytes together. Processes come by its `cgroup.procs`.

    Skips the test where no group can be made. Whoever was put in has ended, or leaves, before the end.
    """
    one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # cgroup v1, v2
    parent = one if one.is_dir() else two
    group = parent / f"autoglm-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    limit = next(
        (group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()), None
    )
    if limit is None:
        group.rmdir()
        pytest.skip("control groups have no memory controller here")
    limit.write_text(str(memory))
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        (parent / "cgroup.procs").write_text(pid)
    group.rmdir()
