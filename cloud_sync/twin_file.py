"""The twin as a file of the node, kept twice, and there before anything else is.

Two lines: the twin as JSON, and the digest of that line, since a digit that flips is JSON too.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from cloud_sync import kept
from cloud_sync.twin import Twin

NAME = "desired.json"


def read(folder: Path) -> Twin:
    """An empty one where there is none, or none that is whole. OSError."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return kept.mend(folder / NAME, _parse)
    return Twin()


def write(folder: Path, twin: Twin) -> None:
    """OSError, and a former one is kept."""
    line = twin.model_dump_json(exclude_defaults=True).encode()
    kept.write(folder / NAME, b'%b\n"%b"\n' % (line, _digest(line)))


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
    with contextlib.suppress(OSError, ValueError):
        return kept.find(folder / NAME, _parse).settings
    return {}


def _parse(data: bytes) -> Twin:
    line, _, digest = data.partition(b"\n")
    if digest != b'"%b"\n' % _digest(line):
        raise ValueError("its digest is another")
    return Twin.model_validate_json(line)


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest().encode()
