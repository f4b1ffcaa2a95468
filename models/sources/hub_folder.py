"""An ONNX model of a hub's repository, with the files that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from models import onnx
from models.errors import BadFile, BadSource, NotThere, WrongDigest
from models.format import external_files
from models.pipelines.derive import OWN, own
from models.shelf import Shelf, Version
from models.sources.download import FromWeb
from models.sources.folder import BESIDE, MAIN
from models.sources.origin import Fetched
from models.sources.progress import Meter
from models.sources.threads import in_thread

_MOST_BESIDE = 64 * 1024 * 1024  # bytes of a file that is no model and no data of one


@dataclass(frozen=True, slots=True)
class HubPart:
    """A file of a repository. `git_oid` is git's digest of it, where the hub has no SHA-256."""

    web: FromWeb
    git_oid: str

    def check(self, path: Path, size: int) -> None:
        """WrongDigest: the file that came is not the one that the hub lists."""
        if self.web.sha256 is None and not self.is_file(path, size):
            raise WrongDigest(f"{self.web.shown}: the file is not the one that the hub lists")

    def is_file(self, path: Path, size: int) -> bool:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        digest.update(path.read_bytes())
        return digest.hexdigest() == self.git_oid


@dataclass(frozen=True, slots=True)
class FromHubFolder:
    """`parts` are the repository's files by path; which of them hold the model's data, its header tells."""

    main: str
    parts: Mapping[str, HubPart]

    @property
    def identity(self) -> str:
        return f"repository {self.parts[self.main].web.identity}"

    @property
    def sha256(self) -> str | None:
        return None

    async def is_unchanged(self, version: Version) -> bool:
        return await in_thread(self._is_version, version)

    def _is_version(self, version: Version) -> bool:
        files = version.manifest.files
        missing = set(self._beside()) - {file.path for file in files}
        if files[0].path != self.main or missing:
            return False
        for file in files:
            part = self.parts.get(file.path)
            if part is None or (part.web.sha256 or file.sha256) != file.sha256:
                return False
            at = version.path if file is files[0] else version.folder / file.path
            if part.web.sha256 is None and not part.is_file(at, file.size):
                return False
        return True

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        main = await self._fetch(self.main, folder, meter, shelf)
        header = await in_thread(onnx.read_header, main.path)
        beside: dict[str, Fetched] = {}
        for name in (*self._beside(), *external_files(self.main, header)):
            beside[name] = await self._fetch(name, folder, meter, shelf)
            if name == OWN:
                for more in (await in_thread(own, beside[OWN].path)).files:
                    beside[more] = await self._fetch(more, folder, meter, shelf)
        return replace(main, etag="", beside=tuple(beside.items()))

    def _beside(self) -> list[str]:
        return [name for name in BESIDE if name in self.parts]

    async def _fetch(self, name: str, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        if name not in self.parts:
            raise BadFile(f"{name[:100]!r} belongs to it, and the repository does not have it")
        part = self.parts[name]
        if part.web.sha256 is None and (part.web.size or 0) > _MOST_BESIDE:
            raise BadFile(f"{name!r} has more than {_MOST_BESIDE} bytes")
        mine = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        mine.mkdir(exist_ok=True)
        fetched = await part.web.fetch(mine, meter, shelf)
        await in_thread(part.check, fetched.path, fetched.size)
        return fetched


def choose_onnx(repo: str, paths: list[str], wanted: str | None) -> str | None:
    """The ONNX model of these to take; None: there is none. NotThere: the one wanted; BadSource: many."""
    models = sorted(path for path in paths if path.lower().endswith(".onnx"))
    if wanted:
        if not wanted.lower().endswith(".onnx"):
            return None
        if found := [path for path in models if wanted in (path, path.rpartition("/")[2])]:
            return found[0]
        raise NotThere(f"{repo} has no {wanted!r}; it has {', '.join(models[:20]) or 'no ONNX file'}")
    usual = [path for path in MAIN if path in models] or models
    if len(usual) > 1 and usual is models:
        raise BadSource(f"{repo} has several ONNX files: choose one, as {repo}:{models[0]}")
    return usual[0] if usual else None
