"""What the shelf needs of the file system: locks between processes, renames that last, room."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from models.errors import NoRoom

MARGIN = 64 * 1024 * 1024  # bytes that a pull leaves free for everything else on the disk


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """To write a file in the place of another: after a crash it is the old one or the new one, whole.

    `mode`: less the umask. Whatever is raised, the old one stays, alone. OSError.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            yield file
        sync(fresh)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_lasting(path: Path, data: bytes, mode: int = 0o666) -> None:
    """The same for a small file."""
    with replacing(path, mode) as file:
        file.write(data)


def write_private(path: Path, data: bytes) -> None:
    """The same for its owner's eyes alone; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lasting(path, data, 0o600)


def try_lock(path: Path) -> int | None:
    """Lock a file, made where it is missing; None if another holds it. Ends with `unlock` or the process."""
    return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is never removed; waits for it."""
    descriptor = _lock(path, fcntl.LOCK_EX)
    assert descriptor is not None  # noqa: S101  (a waiting lock either comes or raises)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, how: int) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed the file


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def free(folder: Path) -> int:
    """Bytes that may be written in a folder."""
    return shutil.disk_usage(folder).free


def check_room(folder: Path, need: int, what: str) -> None:
    """NoRoom, with the numbers, unless `need` bytes fit and MARGIN stays."""
    if (have := free(folder)) < need + MARGIN:
        raise NoRoom(
            f"{what} needs {megabytes(need)}, and {megabytes(MARGIN)} should stay free, but the disk of "
            f"{folder} has {megabytes(have)} free: make room, or set AUTOGLM_DATA_DIR to a larger disk"
        )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
