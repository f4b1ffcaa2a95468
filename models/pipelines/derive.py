"""The pipeline of a model's folder: as its `pipeline.toml` says, or as other tools' files in it say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.errors import BadFile
from models.onnx import Header
from models.pipelines import classification, embedding
from models.pipelines.table import Pipeline, TextEmbedding

OWN = "pipeline.toml"
SAID_IN = (OWN, *embedding.SAID_IN, *classification.SAID_IN)
"""The files that are looked into, where they are there."""
MOST_BYTES = 4 * 1024 * 1024  # of one of them

_TABLE: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)


def derive(files: Mapping[str, Path], header: Header) -> Pipeline | None:
    """What the files, by their paths in the Version, say. None: nothing. BadFile: what cannot be done."""
    if OWN in files:
        found: Pipeline | None = own(files[OWN])
    else:
        said = {name: _json(name, files[name]) for name in SAID_IN if name in files and name != OWN}
        found = embedding.derive(said, files) or classification.derive(said)
    if found is None:
        return None
    for name in found.files:
        if name not in files:
            raise BadFile(f"its pipeline needs {name!r}, which is not among its files")
    if isinstance(found, TextEmbedding):
        return embedding.fitted(found, header)
    classification.check(header)
    return found


def own(path: Path) -> Pipeline:
    """The table of a `pipeline.toml`."""
    try:
        return _TABLE.validate_python(tomllib.loads(_text(OWN, path)))
    except tomllib.TOMLDecodeError as error:
        raise BadFile(f"{OWN}: {error}") from None
    except ValidationError as error:
        raise BadFile(f"{OWN}: {_first(error)}") from None


def _json(name: str, path: Path) -> Any:
    try:
        return json.loads(_text(name, path))
    except (ValueError, RecursionError):
        raise BadFile(f"{name} is not JSON") from None


def _text(name: str, path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BadFile(f"{name} has more than {MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadFile(f"{name} is not UTF-8") from None


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, one["loc"]))
    return f"{where}: {one['msg']}" if where else str(one["msg"])
