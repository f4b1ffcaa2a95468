"""The shelf: the Versions on this disk.

    blobs/sha256-<hex>                  files, by content; each is shared by all Versions that have it
    manifests/<model>/<version>.json    a Version exists when this file does; it is written last
    folders/<version>/<path>            of a Version of several files: hard links to its blobs by their names,
                                        as the Engine looks for them (copies where the disk has no links);
                                        made anew where they are missing
    work/                               pulls in progress and interrupted ones (`sources/work.py`)
    lock                                held by whoever changes blobs or manifests

At any crash there is a whole Version or none; what is left over goes at the next change.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from models import disk
from models.errors import Damaged, NotOnShelf
from models.manifest import File, Manifest, version_of
from models.pipelines.table import Pipeline

log = structlog.get_logger()

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK)  # of file systems without hard links


@dataclass(frozen=True, slots=True)
class Version:
    """A whole Version. `path` is the file that an Engine opens; of a single file, it has no extension."""

    manifest: Manifest
    path: Path

    @property
    def model(self) -> str:
        return self.manifest.model

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return self.manifest.size

    @property
    def folder(self) -> Path:
        """Where its files lie by their paths. Only a Version of several files has one."""
        return self.path.parents[self.manifest.files[0].path.count("/")]


@dataclass(frozen=True, slots=True)
class Staged:
    """A verified file for `add`. It is moved from `at`, on the shelf's disk; None: the blob is there."""

    file: File
    at: Path | None


class Shelf:
    """Versions under one folder. Safe with several processes at once; every method may wait on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self._blobs = root / "blobs"
        self._manifests = root / "manifests"
        self._folders = root / "folders"

    def versions(self) -> list[Version]:
        """Every whole Version, by Model, the newest first."""
        found = [whole for path in self._manifest_paths() if (whole := self._read(path))]
        return sorted(found, key=lambda version: (version.model, -version.manifest.created))

    def get(self, model: str, version: str | None = None) -> Version:
        """A Model's Version, the newest unless told. NotOnShelf."""
        for found in self.versions():
            if found.model == model and version in (None, found.version):
                return found
        raise _not_there(model, version)

    def blob(self, file: File) -> Path | None:
        """Where a file with this content lies, if it is there in full size."""
        path = self._path(file)
        try:
            return path if path.stat().st_size == file.size else None
        except FileNotFoundError:
            return None

    def add(
        self,
        model: str,
        staged: list[Staged],
        *,
        engine: str = "llama",
        source: str = "",
        etag: str = "",
        made_from: str = "",
        pipeline: Pipeline | None = None,
    ) -> Version:
        """Put a Version on the shelf, durably. The files were verified by the caller."""
        files = tuple(one.file for one in staged)
        for one in staged:
            if one.at is not None:
                disk.sync(one.at)
        with self._locked():
            manifest = Manifest(
                model=model,
                version=version_of(files),
                engine=engine,
                files=files,
                source=source,
                etag=etag,
                made_from=made_from,
                created=self._later(model),
                pipeline=pipeline,
            )
            path = self._manifest_of(manifest)
            self._blobs.mkdir(exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            for one in staged:
                self._place(one)
            for changed in (self._blobs, self._manifests, self.root):
                disk.sync(changed)
            whole = self._whole(manifest)  # before the manifest: where this fails there is no Version
            disk.write_lasting(path, manifest.to_bytes())
            self._drop_leftovers()
        return whole

    def prefer(self, version: Version) -> None:
        """Let it be the newest of its Model: the one that is served."""
        with self._locked():
            later = version.manifest.model_copy(update={"created": self._later(version.model)})
            disk.write_lasting(self._manifest_of(later), later.to_bytes())

    def _later(self, model: str) -> int:
        """Now, or just after the Model's newest Version where the wall clock is behind it."""
        newest = max((one.manifest.created for one in self.versions() if one.model == model), default=-1)
        return max(int(time.time()), newest + 1)

    def _place(self, staged: Staged) -> None:
        if staged.at is not None:
            staged.at.rename(self._path(staged.file))
        elif self.blob(staged.file) is None:
            raise NotOnShelf(f"{staged.file.path} was removed meanwhile: pull it again")

    def remove(self, model: str, version: str | None = None) -> list[Manifest]:
        """Take a Version, or all of a Model, off the shelf. NotOnShelf. Open files stay readable."""
        with self._locked():
            there = [found for path in self._manifest_paths() if (found := _parse(path))]
            going = [one for one in there if one.model == model and version in (None, one.version)]
            if not going:
                raise _not_there(model, version)
            for one in going:
                self._manifest_of(one).unlink(missing_ok=True)
            disk.sync(self._manifests / model)
            self._drop_leftovers()
        return going

    def verify(self, version: Version) -> None:
        """Hash a Version's files again. Damaged; what is damaged goes, so that a pull brings it anew."""
        for file in version.manifest.files:
            path = self.blob(file)
            if path is None or digest_of(path) != file.sha256:
                self._path(file).unlink(missing_ok=True)
                raise Damaged(f"{file.path} of {version.model} was damaged on disk: pull it again")

    def sweep(self) -> None:
        """Remove blobs that belong to no Version, and half-written manifests: what a crash left."""
        if self.root.is_dir():
            with self._locked():
                self._drop_leftovers()

    def _drop_leftovers(self) -> None:
        # Under the lock: blobs come under it, with their manifest, so that none of them belongs to a pull.
        for half in self._manifests.glob("*/.*.new"):
            half.unlink(missing_ok=True)
        manifests = [_parse(path) for path in self._manifest_paths()]
        if None in manifests:
            return  # perhaps a later agent's: its blobs are unknown
        wanted = {self._path(file) for one in manifests if one for file in one.files}
        for path in self._blobs.glob("*"):
            if path not in wanted:
                path.unlink(missing_ok=True)
        versions = {one.version for one in manifests if one}
        for folder in self._folders.glob("*"):
            if folder.name not in versions:
                shutil.rmtree(folder, ignore_errors=True)

    def _manifest_paths(self) -> list[Path]:
        return sorted(self._manifests.glob("*/*.json"))

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        return disk.locked(self.root / "lock")

    def _read(self, path: Path) -> Version | None:
        manifest = _parse(path)
        if manifest is None or path != self._manifest_of(manifest):
            return None
        if any(self.blob(file) is None for file in manifest.files):
            log.warning("a Version's file is missing or cut: pull it again", manifest=str(path))
            return None
        try:
            return self._whole(manifest)
        except FileNotFoundError:
            return None  # removed meanwhile
        except OSError as error:
            log.warning("a Version's folder cannot be made", manifest=str(path), error=str(error))
            return None

    def _whole(self, manifest: Manifest) -> Version:
        """FileNotFoundError: a blob has gone. OSError: its folder cannot be made."""
        main = manifest.files[0]
        if len(manifest.files) == 1:
            return Version(manifest, self._path(main))
        folder = self._folders / manifest.version
        for file in manifest.files:
            _link(self._path(file), folder, file.path)
        return Version(manifest, folder / main.path)

    def _path(self, file: File) -> Path:
        return self._blobs / f"sha256-{file.sha256}"

    def _manifest_of(self, manifest: Manifest) -> Path:
        return self._manifests / manifest.model / f"{manifest.version}.json"


def split_name(text: str) -> tuple[str, str | None]:
    """`model` or `model:version`, as users write them. NotOnShelf: a colon and nothing."""
    model, colon, version = text.partition(":")
    if colon and not version:
        raise NotOnShelf(f"{text!r} names no version after the colon")
    return model, version or None


def _link(blob: Path, folder: Path, name: str) -> None:
    """Let the blob be found in the folder by this name. Without a lock: whoever comes later finds it done."""
    path = folder / name
    with contextlib.suppress(FileNotFoundError):
        if path.samefile(blob):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{secrets.token_hex(8)}.new"
    try:
        fresh.hardlink_to(blob)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _is_copy(path, blob):
            return
        shutil.copy2(blob, fresh)
    try:
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)  # where another was quicker, replacing a file by itself does nothing


def _is_copy(path: Path, blob: Path) -> bool:
    """As far as size and time tell."""
    try:
        mine, its = path.stat(), blob.stat()
    except FileNotFoundError:
        return False
    return (mine.st_size, mine.st_mtime_ns) == (its.st_size, its.st_mtime_ns)


def _not_there(model: str, version: str | None) -> NotOnShelf:
    what = model if version is None else f"{model} version {version}"
    return NotOnShelf(f"{what} is not on the shelf: see `autoglm models`, or get it by `autoglm pull`")


def _parse(path: Path) -> Manifest | None:
    try:
        return Manifest.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None  # removed meanwhile
    except ValueError as error:
        log.warning("not a manifest", path=str(path), error=str(error))
        return None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
