"""Models of a Hugging Face hub: which file of a repository to take, and its digest."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from models.errors import BadSource, NotThere, PullError
from models.manifest import Sha256
from models.sources import web
from models.sources.download import FromWeb
from models.sources.hub_folder import FromHubFolder, HubPart, choose_onnx
from models.sources.progress import Meter

ENDPOINT = "https://huggingface.co"
SOURCE = re.compile(r"^(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(:(?P<file>[^:\\]{1,255}))?$")
_MAX_PAGES = 20
_MAX_LISTING = 8 * 1024 * 1024  # bytes of one page

PREFERRED = (
    *("Q4_K_M", "Q4_1", "Q4_0", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q8_0"),
    *("Q6_K", "Q3_K_L", "Q3_K_M", "MXFP4", "IQ3_M", "Q3_K_S", "Q2_K", "F16", "BF16", "F32"),
)
"""Good text for the memory first, then what a small machine can still bear."""

_PAGE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)(/(blob|resolve)/main/(?P<file>.+\.(?:gguf|onnx)))?/?$")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_NO_MODEL = re.compile(r"mmproj|imatrix|lora|adapter|-vocab", re.IGNORECASE)


class _Lfs(BaseModel):
    oid: Sha256
    size: int


class _Listed(BaseModel):
    """One row of `/api/models/{repo}/tree/{revision}`."""

    type: str
    path: str
    oid: str = ""  # git's
    size: int = 0
    lfs: _Lfs | None = None


_LISTING = TypeAdapter(list[_Listed])


@dataclass(frozen=True, slots=True)
class HubFile:
    """A model's file in a repository, and the way to it, and to what belongs to it."""

    path: str
    origin: FromWeb | FromHubFolder


async def find_in_hub(repo: str, wanted: str | None, meter: Meter) -> HubFile:
    """The file of `owner/repo` to take: the one wanted (path, file name or "Q8_0"), or the best for most."""
    meter("looking up")
    rows = [row for row in await _list(repo) if row.type == "file"]
    has_gguf = any(row.path.lower().endswith(".gguf") for row in rows)
    asks_onnx = (wanted or "").lower().endswith(".onnx")
    main = choose_onnx(repo, [row.path for row in rows], wanted) if asks_onnx or not has_gguf else None
    if main is not None:
        parts = {row.path: HubPart(_way(repo, row, row.path == main), row.oid) for row in rows}
        return HubFile(main, FromHubFolder(main, parts))
    chosen = choose(repo, rows, wanted)
    return HubFile(chosen.path, _way(repo, chosen, True))


def _way(repo: str, row: _Listed, is_model: bool) -> FromWeb:
    url = f"{_endpoint()}/{repo}/resolve/main/{quote(row.path)}"
    digest, size = (row.lfs.oid, row.lfs.size) if row.lfs else (None, row.size)
    return FromWeb(url, digest, size, headers(url), is_model)


def choose(repo: str, rows: list[_Listed], wanted: str | None) -> _Listed:
    """NotThere, with what there is; BadSource for one that cannot be used alone."""
    models = [row for row in rows if row.path.lower().endswith(".gguf")]
    whole = [row for row in models if not _SPLIT.search(row.path) and not _NO_MODEL.search(row.path)]
    if wanted:
        return _choose_wanted(repo, models, whole, wanted)
    if not models:
        name = repo.partition("/")[2]
        raise NotThere(
            f"{repo} holds no GGUF or ONNX file: pull a quantised copy of it, often named {name}-GGUF ; or "
            "give another file or owner/repo:file"
        )
    if not whole:
        raise BadSource(
            f"{repo} has its model only in parts: join them with llama-gguf-split --merge and pull the file"
        )
    return min(whole, key=lambda row: (_rank(row.path), len(row.path), row.path))


def _choose_wanted(repo: str, models: list[_Listed], whole: list[_Listed], wanted: str) -> _Listed:
    for row in models:
        if wanted in (row.path, row.path.rpartition("/")[2]):
            if _SPLIT.search(row.path):
                raise BadSource(f"{row.path} is one part of a split model: join the parts and pull the file")
            return row
    named = [row for row in whole if _quantisation(row.path) == wanted.upper()]
    if named:
        return min(named, key=lambda row: (len(row.path), row.path))
    there = ", ".join(sorted(row.path for row in whole)[:20]) or "no GGUF file"
    raise NotThere(f"{repo} has no {wanted!r}; it has {there}")


def _quantisation(path: str) -> str | None:
    """What a file's name says, such as "Q4_K_M"."""
    name = re.sub(r"[^A-Z0-9]+", "_", path.rpartition("/")[2].upper().removesuffix(".GGUF"))
    found = [one for one in PREFERRED if re.search(rf"(^|_){one}(_|$)", name)]
    return max(found, key=len, default=None)


def _rank(path: str) -> int:
    known = _quantisation(path)
    return PREFERRED.index(known) if known else len(PREFERRED)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def headers(url: str) -> dict[str, str]:
    """HF_TOKEN, for addresses of the hub alone."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token and web.same_origin(url, _endpoint()) else {}


def as_hub_source(url: str) -> str | None:
    """`owner/repo[:file]` of the hub's page for it; None for other addresses, and for one with a digest."""
    found = _PAGE.match(urlsplit(url).path)
    if not found or "#" in url or not web.same_origin(url, _endpoint()):
        return None
    return found["repo"] + (f":{unquote(found['file'])}" if found["file"] else "")


async def _list(repo: str) -> list[_Listed]:
    """All files of a repository, over the listing's pages."""
    rows: list[_Listed] = []
    shown = f"{repo} on {urlsplit(_endpoint()).netloc}"
    page = f"{_endpoint()}/api/models/{repo}/tree/main?recursive=true"
    async with web.client() as client:
        for _ in range(_MAX_PAGES):
            body, following = await web.get(client, page, headers(page), _MAX_LISTING, shown)
            try:
                rows += _LISTING.validate_json(body)
            except ValidationError as error:
                raise PullError(f"{repo}: the hub's answer is not a list of files") from error
            if following is None:
                break
            page = following
    return rows
