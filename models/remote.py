"""A Model that another server runs: a small TOML file that says where, and never a secret."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from models.errors import BadFile

MAX_SIZE = 16 * 1024  # bytes of such a file
ENGINES = ("openai", "triton")
_SECRETS = re.compile(r"key|token|secret|password|auth", re.I)

Plain = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,256}$")]  # printable, without spaces


class Remote(BaseModel):
    """Where a Model runs. `engine` names the protocol that is spoken there."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    engine: Literal["openai", "triton"]
    url: Annotated[str, StringConstraints(max_length=1000)]
    model: Plain  # its name there
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""  # triton: there
    # Names of secrets. Who may pull a Model must not thereby send any variable or file of this node away:
    # so of variables only those that are called a key, and of files only those in the folder for keys.
    api_key_env: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]{0,60}API_KEY$")] | None = None
    api_key_file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")] | None = (
        None
    )
    connect_timeout_s: float = Field(5, gt=0, le=300)
    timeout_s: float = Field(300, gt=0, le=86400)  # of silence in an answer
    retries: int = Field(2, ge=0, le=10)
    concurrency: int = Field(64, ge=1, le=1024)  # requests that are there at once
    context: int | None = Field(None, ge=1, le=100_000_000)  # tokens; None: as the server says

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
            raise ValueError("not a URL")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and name a host")
        if parts.port == 0:  # urlsplit itself refuses what is no port
            raise ValueError("there is no port 0")
        if "@" in parts.netloc:
            raise ValueError("no password in it: name the key by api_key_env or api_key_file")
        if parts.query or parts.fragment or "?" in url or "#" in url:
            raise ValueError("it must end with its path: no query, no fragment")
        if {".", ".."} & set(parts.path.split("/")):
            raise ValueError("no '.' or '..' in its path")
        return url.rstrip("/")


def read(path: Path) -> Remote:
    """BadFile: what is wrong with it; OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise BadFile(f"the description of a remote model has at most {MAX_SIZE} bytes")
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadFile(f"not TOML: {error}") from None
    _refuse_secrets(values)
    try:
        made = Remote.model_validate(values)
    except ValidationError as error:
        raise BadFile(_says(error)) from None
    if made.version and made.engine != "triton":
        raise BadFile("version: only where the engine is triton")
    if made.api_key_env and made.api_key_file:
        raise BadFile("give either api_key_env or api_key_file")
    return made


def may_be(start: bytes) -> bool:
    """Whether a file that begins so can be TOML: it is text."""
    return start[:1].isascii() and bool(start) and all(byte in b"\t\n\r" or byte >= 0x20 for byte in start)


def _refuse_secrets(values: dict[str, Any]) -> None:
    for name in values.keys() - Remote.model_fields.keys():
        if _SECRETS.search(name):
            raise BadFile(
                f"{name[:100]}: a secret does not belong here: api_key_env names a variable that holds it, "
                "api_key_file a file in the folder for keys"
            )


def _says(error: ValidationError) -> str:
    """The first mistake; the value itself is not repeated: it may be a key."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if name == "api_key_env":
        message = "the name of a variable, which ends with API_KEY; never the key itself"
    elif name == "api_key_file":
        message = "the name of a file in the folder for keys, without a path"
    return f"{name}: {message}" if name else message
