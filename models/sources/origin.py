"""Where a model comes from, and its files once they have come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.shelf import Shelf, Version
from models.sources.progress import Meter


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file in the pull's folder."""

    path: Path
    size: int  # bytes
    sha256: str
    etag: str = ""
    beside: tuple[tuple[str, Fetched], ...] = ()  # of a model of several files: the others, by their paths


class Origin(Protocol):
    """One way to a model. `sha256` is that of its one file; None where nobody promises one."""

    @property
    def identity(self) -> str:
        """Equal for pulls that may share what was fetched so far; may hold secrets."""

    @property
    def sha256(self) -> str | None: ...

    async def is_unchanged(self, version: Version) -> bool:
        """Asked where there is no digest: whether a Version that came from here still is what is here."""

    async def fetch(self, folder: Path, meter: Meter, shelf: Shelf) -> Fetched:
        """Bring the file into the folder, which holds what an interrupted fetch left. Raises ModelError."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source means: the Model's name, its file's name, and the way to it."""

    model: str
    file: str  # where there are several, the path of the one that an Engine opens
    source: str  # as the Manifest shows it, without secrets
    origin: Origin


def key_of(origin: Origin) -> str:
    return hashlib.sha256(origin.identity.encode()).hexdigest()[:24]
