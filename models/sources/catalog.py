"""The models that have a name here: `catalog.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

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
    hub: Annotated[str, StringConstraints(pattern=r"^([^/:]+/[^/:]+:[^:]+)?$")] = ""

    @model_validator(mode="after")
    def _has_one_way(self) -> Entry:
        if bool(self.hub) == bool(self.wheels) or (self.wheels and not (self.size and self.sha256)):
            raise ValueError("a model comes from the hub, or from wheels with size and digest pinned")
        return self


class Catalog(_Table):
    models: tuple[Entry, ...]
    instead: dict[str, str]  # a repository without GGUF -> "owner/repo:file" that has it quantised

    def instead_of(self, repo: str) -> str:
        """Where to go for a repository: to itself unless it is known to hold no GGUF."""
        return next((to for one, to in self.instead.items() if one.lower() == repo.lower()), repo)

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.models if entry.name == name), None)


@cache
def catalog() -> Catalog:
    return Catalog.model_validate(tomllib.loads(files("models").joinpath("catalog.toml").read_text("utf-8")))
