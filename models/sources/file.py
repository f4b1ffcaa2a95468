"""A file on this machine: shared with the shelf where the file system can do that, else copied."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models import remote
from models.format import engine_for
from models.shelf import Shelf, Version
from models.sources.origin import Fetched
from models.sources.progress import Meter
from models.sources.threads import in_thread
from models.sources.work import make_room

_SLICE = 8 * 1024 * 1024  # bytes between two reports
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class FromFile:
    """A local file; it stays where it is. Replace it to change it: the blob may be a hard link to it."""

    path: Path  # absolute, links resolved

    @property
    def identity(self) -> str:
        return f"file {self.path}"

    @property
    def sha256(self) -> str | None:
        return None

    async def is_unchanged(self, version: Version) -> bool:
        return await in_thread(self.is_version, version)

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        engine = await in_thread(engine_for, self.path)  # a wrong file is refused before it is copied
        target = folder / "file"
        # What people edit in place must not be the blob itself.
        if engine in remote.ENGINES or not await in_thread(_link, self.path, target):
            await copy(self.path, target, meter, shelf)
        return await checked(target, meter)

    def is_version(self, version: Version) -> bool:
        """Whether the file is unchanged since it alone became this Version, as far as size and time tell."""
        if len(version.manifest.files) > 1:
            return False
        mine, its = self.path.stat(), version.path.stat()
        return (mine.st_size, mine.st_mtime_ns) == (its.st_size, its.st_mtime_ns)


async def copy(path: Path, target: Path, meter: Meter, shelf: Shelf) -> None:
    """A reflink if the file system gives one, else a copy in slices; the time of change stays."""
    status = await in_thread(path.stat)
    if not await in_thread(_reflink, path, target):
        await in_thread(make_room, shelf, status.st_size, path.name)
        with path.open("rb") as source, target.open("wb") as file:
            while await in_thread(_copy_slice, source, file):
                meter("copying", min(file.tell(), status.st_size), status.st_size)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


async def checked(path: Path, meter: Meter) -> Fetched:
    """Hash a file in slices."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while await in_thread(_hash_slice, file, digest):
            meter("checking", min(file.tell(), size), size)
    return Fetched(path, size, digest.hexdigest())


def _link(path: Path, target: Path) -> bool:
    """A reflink or a hard link, if the file system gives one."""
    if _reflink(path, target):
        status = path.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        return True
    try:
        target.hardlink_to(path)
    except OSError:  # another disk, or not our file
        return False
    return True


def _reflink(path: Path, target: Path) -> bool:
    target.unlink(missing_ok=True)
    try:
        with path.open("rb") as source, target.open("wb") as file:
            fcntl.ioctl(file.fileno(), _FICLONE, source.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True


def _copy_slice(source: IO[bytes], target: IO[bytes]) -> int:
    return target.write(source.read(_SLICE))


def _hash_slice(file: IO[bytes], digest: Any) -> int:
    data = file.read(_SLICE)
    digest.update(data)
    return len(data)
