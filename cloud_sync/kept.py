"""Small files that must outlive a damaged one: each is kept twice.

The copy is written second, so that after a kill between the two it is the former state: whole, and not wrong.
A damaged file is set aside, never deleted: what lies aside is reported until somebody takes it away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from models.disk import write_private

T = TypeVar("T")
log = structlog.get_logger()


def copy_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.copy")


def write(path: Path, data: bytes) -> None:
    """OSError: the disk may have the file and not its copy."""
    write_private(path, data)
    write_private(copy_of(path), data)


def find(path: Path, parse: Callable[[bytes], T]) -> T:
    """What is in it, by `parse`, which raises ValueError for what is damaged; else what is in its copy.

    FileNotFoundError: there is neither; ValueError: none is whole; OSError.
    """
    try:
        return parse(path.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        try:
            return parse(copy_of(path).read_bytes())
        except (FileNotFoundError, ValueError):
            raise error from None


def mend(path: Path, parse: Callable[[bytes], T]) -> T:
    """The same; what is damaged is set aside, and the whole one takes its place."""
    whole: bytes | None = None
    for one in (path, copy_of(path)):
        try:
            data = one.read_bytes()
            parse(data)
        except FileNotFoundError:
            continue
        except ValueError as error:
            aside = one.rename(aside_of(one))
            log.error("a damaged file is set aside", file=str(aside), reason=str(error)[:200])
        else:
            whole = whole or data
    if whole is not None and not (path.exists() and copy_of(path).exists()):
        write(path, whole)
    return find(path, parse)


def aside_of(path: Path) -> Path:
    """What a damaged file is called from now on."""
    return path.with_name(f"{path.name}.damaged-{time.time_ns()}")


def damaged(folder: Path) -> list[str]:
    """Names of files in a folder that were set aside."""
    return sorted(one.name for one in folder.glob("*.damaged-*") if not one.name.endswith(("-wal", "-shm")))
