"""The folder that one agent has to itself."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from agent.errors import AgentError


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Two agents must not share a data folder. AgentError: another has it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(f"another agent runs on {data_dir}: stop it, or set AUTOGLM_DATA_DIR") from error
        yield
