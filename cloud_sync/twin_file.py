"""The twin as a file of the node: whole or the former one, and there before anything else is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from cloud_sync.twin import Twin
from models.disk import write_private

NAME = "desired.json"
log = structlog.get_logger()


def read(folder: Path) -> Twin:
    """An empty one where there is none. A damaged file is set aside, and said loudly. OSError."""
    path = folder / NAME
    try:
        return Twin.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Twin()
    except ValidationError:
        aside = path.with_name(f"{NAME}.damaged-{time.time_ns()}")
        path.rename(aside)
        log.error("what the cloud had set was damaged, and is set aside", file=str(aside))
        return Twin()


def write(folder: Path, twin: Twin) -> None:
    """OSError, and the former one stays."""
    write_private(folder / NAME, twin.model_dump_json(exclude_defaults=True).encode())


def begin(folder: Path) -> bool:
    """The agent starts: counted before anything of a document on trial is tried. OSError.

    True: that took the document back, so other settings are in force than before.
    """
    former = read(folder)
    twin = former.started()
    if twin != former:
        write(folder, twin)
    return twin.active != former.active


def settings_in_force(folder: Path) -> dict[str, Any]:
    """Of the active document; none where it cannot be read."""
    try:
        return Twin.model_validate_json((folder / NAME).read_bytes()).settings
    except (OSError, ValidationError):
        return {}
