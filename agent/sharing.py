"""How this process shares the CPU with the others: by the kernel's nice levels, each worth a factor of 1.25.

What loads, or is tried, gives way to those that answer: it gets a tenth of what they get where all are busy,
and everything where they are not. Once it answers itself, a Worker has its model's share. To come back from a
lower level takes the right to (root's, or RLIMIT_NICE, which the systemd unit grants); without it nothing is
changed.
"""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

ASIDE = 10  # levels below those that answer
WORTH = 1.25  # of one level: the kernel's own
LEAST, MOST = -20, 19
CAP_SYS_NICE = 23


TENSORS = 0.4
"""A step of text needs all of its threads at once, and a run of tensors its own alone: at one level, text
beside tensors gets a sixth of what it has alone, and with this a third, while the tensors keep over half
(measured: docs/performance.md)."""


def give_way() -> None:
    """Until `take_share`, or for good."""
    _set(_level() + ASIDE)


def take_share(share: float) -> None:
    """What this process gets beside others with a share of 1, where all are busy."""
    _set(round(-math.log(share) / math.log(WORTH)))


def may_return() -> bool:
    """Whether a process that gave way can come back to level 0."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return soft >= 20 or _has_right()


def _has_right() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def _level() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _set(level: int) -> None:
    """Of all threads: Linux counts each for itself, and those of OpenMP were started by the load."""
    level = max(LEAST, min(MOST, level))
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.setpriority(os.PRIO_PROCESS, int(thread.name), level)
        except (PermissionError, ProcessLookupError):  # more than this process may have, or the thread ended
            continue
