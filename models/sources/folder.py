"""A folder on this machine: its model, and the files that belong to it."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from models import onnx
from models.errors import BadFile
from models.format import external_files
from models.pipelines.derive import OWN, SAID_IN, own
from models.shelf import Shelf, Version
from models.sources.file import checked, copy
from models.sources.origin import Fetched
from models.sources.progress import Meter
from models.sources.threads import in_thread

MAIN = ("model.onnx", "onnx/model.onnx")
"""Where other tools put a folder's model."""
BESIDE = (*dict.fromkeys(SAID_IN), "tokenizer.json")
"""Files that belong to an ONNX model wherever they lie in its folder."""


@dataclass(frozen=True, slots=True)
class FromFolder:
    """Copies, or reflinks: the folder may change afterwards."""

    root: Path  # absolute, links resolved
    files: tuple[str, ...]  # their paths in it, the model's first

    @property
    def identity(self) -> str:
        return f"folder {self.root} {' '.join(self.files)}"

    @property
    def sha256(self) -> str | None:
        return None

    async def is_unchanged(self, version: Version) -> bool:
        return await in_thread(self.is_version, version)

    def is_version(self, version: Version) -> bool:
        """Whether its files are unchanged since they became this Version, as far as size and time tell."""
        if tuple(file.path for file in version.manifest.files) != self.files or len(self.files) == 1:
            return False
        pairs = [((self.root / name).stat(), (version.folder / name).stat()) for name in self.files]
        return all(mine.st_size == its.st_size and mine.st_mtime_ns == its.st_mtime_ns for mine, its in pairs)

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        found = []
        for at, name in enumerate(self.files):
            target = folder / str(at)
            await copy(self.root / name, target, meter, shelf)
            found.append(await checked(target, meter))
        main, *others = found
        return replace(main, beside=tuple(zip(self.files[1:], others, strict=True)))


def survey(root: Path) -> FromFolder:
    """What of a folder is to be brought. BadFile: it has no one model, or a file that must not be served."""
    main = main_of(_models(root))
    _check(root, main)
    if main.lower().endswith(".gguf"):
        return FromFolder(root, (main,))
    names = dict.fromkeys(name for name in BESIDE if (root / name).exists() or (root / name).is_symlink())
    for name in names:
        _check(root, name)
    if OWN in names:
        names |= dict.fromkeys(own(root / OWN).files)
    data = external_files(main, onnx.read_header(root / main))
    for name in (*names, *data):
        _check(root, name, data=name in data)
    return FromFolder(root, (main, *dict.fromkeys((*names, *data))))


def main_of(names: Iterable[str]) -> str:
    """The model among the files of a folder. BadFile: there is none, or not one."""
    there = sorted(names)
    if found := next((name for name in MAIN if name in there), None):
        return found
    if len(there) != 1:
        listed = ", ".join(there[:10]) or "none"
        raise BadFile(f"a folder must have a model.onnx, or one .onnx or .gguf file; it has {listed}")
    return there[0]


def _models(root: Path) -> list[str]:
    found = [path for place in (root, root / "onnx") for path in place.glob("*") if path.is_file()]
    return [str(path.relative_to(root)) for path in found if path.suffix.lower() in (".onnx", ".gguf")]


def _check(root: Path, name: str, *, data: bool = False) -> None:
    """A plain file, inside. External data has no other name: a model could read whatever it names."""
    path = root / name
    if not path.exists():
        raise BadFile(f"{name!r} belongs to it, and is not there")
    if path.resolve() != root / name:
        raise BadFile(f"{name!r} is a symbolic link, or lies behind one: copy the folder with its files")
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{name!r} is not a regular file")
    if data and status.st_nlink > 1:
        raise BadFile(f"{name!r} holds the model's data and is a hard link: copy the folder with its files")
