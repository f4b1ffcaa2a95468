"""The Manifest: what a Version consists of. Canonical JSON, so that its bytes can be signed."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from models.pipelines.table import Pipeline

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"  # of a Model: no slash, and never "." or ".."
VERSION_DIGITS = 12
MOST_NAME = 255  # bytes of one name: what file systems take

Name = Annotated[str, StringConstraints(pattern=NAME)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Frozen):
    """One file of a Version. `path` is where the engine would look for it: relative, without '..'."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    size: int = Field(ge=0)  # bytes
    sha256: Sha256

    @model_validator(mode="after")
    def _path_stays_inside(self) -> File:
        path = PurePosixPath(self.path)
        bad = path.is_absolute() or ".." in path.parts or str(path) != self.path
        if bad or "\\" in self.path or not self.path.isprintable():
            raise ValueError("a file's path must be relative, in its plainest form, and without '..'")
        if any(len(part.encode()) > MOST_NAME for part in path.parts):
            raise ValueError(f"a file's name must have at most {MOST_NAME} bytes")
        return self


class Manifest(_Frozen):
    """The description of a Version. The first of `files` is the one that an Engine opens."""

    format: Literal[1] = 1
    model: Name
    version: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{VERSION_DIGITS}}}$")]
    engine: Name = "llama"
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=1000)]
    source: str = ""  # what was pulled, without secrets
    etag: str = ""  # the source's own mark of this content, where it has no digest
    made_from: Annotated[str, StringConstraints(pattern=rf"^([0-9a-f]{{{VERSION_DIGITS}}})?$")] = ""
    """The Version that this one was quantised from on this device; "": it was pulled."""
    created: int = Field(ge=0)  # when it came to this shelf, unix seconds
    pipeline: Pipeline | None = None  # what its Worker does before and after the model

    @model_validator(mode="after")
    def _files_have_names_of_their_own(self) -> Manifest:
        names = {file.path for file in self.files}
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        if len(names) < len(self.files) or names & folders:
            raise ValueError("two files have the same path, or one is where another has a folder")
        return self

    @model_validator(mode="after")
    def _version_is_of_the_files(self) -> Manifest:
        if self.version != version_of(self.files):
            raise ValueError("the version does not belong to these files")
        return self

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """Canonical: sorted keys, no spaces, UTF-8; the same Manifest always gives the same bytes."""
        document = self.model_dump(mode="json", exclude_none=True)
        if not self.made_from:
            del document["made_from"]  # as those who do not know it write, and read
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """ValueError if it is not one."""
        return cls.model_validate_json(data)


def version_of(files: tuple[File, ...]) -> str:
    """The short digest over the files' digests: the same content has the same Version.

    Of several files the names count too: the Engine finds them by these.
    """
    named = len(files) > 1
    lines = (f"{file.sha256} {file.path}\n" if named else f"{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:VERSION_DIGITS]
