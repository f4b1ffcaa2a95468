"""Bring a model to the shelf."""

from __future__ import annotations

import errno
from pathlib import Path

from pydantic import ValidationError

from models.errors import BadFile, ModelError, NoRoom, WrongDigest
from models.format import engine_for
from models.manifest import File
from models.onnx import read_header
from models.pipelines.derive import derive
from models.shelf import Shelf, Staged, Version
from models.sources import work
from models.sources.find import find_out, on_shelf
from models.sources.origin import Fetched, Found, key_of
from models.sources.progress import Meter, Report
from models.sources.threads import in_thread


async def pull(source: str, shelf: Shelf, *, name: str | None = None, report: Report) -> Version:
    """Put what `source` means on the shelf, as the Model `name` or as the source's own name, and return it.

    A source is a catalog name, a GGUF or ONNX file, a remote model's description (TOML), a folder with one
    and what belongs to it, an http(s) URL (`#sha256=<hex>` pins it), or a Hugging Face `owner/repo[:file]`.
    Its own name is the catalog's, `repo`, the folder's, or the file's without its ending.
    What is there already is not fetched again; what was interrupted goes on from there.
    Raises ModelError; cancelling leaves only what a later pull can resume.
    """
    meter = Meter(report)
    try:
        found = await find_out(source, name, meter)
        version = await on_shelf(found, shelf) or await _fetch(found, shelf, meter)
    except OSError as error:
        raise _translated(error) from error
    meter("ready", version.size, version.size)
    return version


async def _fetch(found: Found, shelf: Shelf, meter: Meter) -> Version:
    key = key_of(found.origin)
    await in_thread(work.sweep, shelf)
    async with work.working(shelf, key, meter) as folder:
        # Another pull may have brought it while this one waited for the folder.
        try:
            version = await on_shelf(found, shelf) or await _bring(found, folder, shelf, meter)
        except BadFile as error:
            await in_thread(work.finish, shelf, key)  # what came is no good to resume from
            raise type(error)(f"{found.source}: {error}") from error
        except WrongDigest:
            await in_thread(work.finish, shelf, key)
            raise
        await in_thread(work.finish, shelf, key)
        return version


async def _bring(found: Found, folder: Path, shelf: Shelf, meter: Meter) -> Version:
    fetched = await found.origin.fetch(folder, meter, shelf)
    if found.origin.sha256 not in (None, fetched.sha256):
        raise WrongDigest(f"{found.source}: the file's SHA-256 is {fetched.sha256}, not the promised one")
    files = [(found.file, fetched), *fetched.beside]
    engine = await in_thread(engine_for, fetched.path, [name for name, _ in files])
    pipeline = None
    if engine == "onnx" and fetched.beside:
        paths = {name: one.path for name, one in files}
        pipeline = await in_thread(derive, paths, await in_thread(read_header, fetched.path))
    return await in_thread(
        shelf.add,
        found.model,
        [Staged(_described(name, one), one.path) for name, one in files],
        engine=engine,
        source=found.source,
        etag=fetched.etag,
        pipeline=pipeline,
    )


def _described(name: str, fetched: Fetched) -> File:
    try:
        return File(path=name, size=fetched.size, sha256=fetched.sha256)
    except ValidationError:
        raise BadFile(f"{name[:100]!r} cannot be the path of a file of a model") from None


def _translated(error: OSError) -> ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom("the disk is full: make room, or set AUTOGLM_DATA_DIR to a larger disk")
    return ModelError(f"{error.filename or 'a file'}: {error.strerror or error}")
