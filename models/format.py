"""Which kind of file a model is, whatever it is called, and so which Engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from models import gguf, onnx, remote
from models.errors import BadFile

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ONNX_STARTS_WITH = 0x08  # the key of its first field, ir_version


def may_be_model(start: bytes | bytearray) -> bool:
    """Whether a file that begins so can be a model itself: one from elsewhere must be.

    The description of a remote model comes from this machine alone: else whoever has a model to offer could
    have this node's prompts sent to him.
    """
    return start[:4] == gguf.MAGIC or start[:1] == bytes([_ONNX_STARTS_WITH])


def engine_for(path: Path, files: Sequence[str] = ("model",)) -> str:
    """Check a model's file: "llama", "onnx", "openai" or "triton". BadFile: what is wrong; OSError.

    `files` are the paths of its Version's files, its own first: external data must be among them.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start == gguf.MAGIC:
        gguf.read_header(path)
        return "llama"
    if start.startswith(_PICKLES):
        raise BadFile("this is a pickle or an archive, which may run code: export the model to ONNX or GGUF")
    if remote.may_be(start):
        return _remote_engine(path)
    if not may_be_model(start):
        return _refuse(start)
    for needed in external_files(files[0], onnx.read_header(path)):
        if needed not in files[1:]:
            raise BadFile(
                f"some of its data lies in {needed[:100]!r}, which is not there: pull the whole folder"
            )
    return "onnx"


def _remote_engine(path: Path) -> str:
    try:
        return remote.read(path).engine
    except BadFile as error:
        raise BadFile(f"not a GGUF or ONNX file, nor a remote model's description: {error}") from None


def external_files(model: str, header: onnx.Header) -> list[str]:
    """Paths, beside the model's own in its Version, of the files that hold its data. BadFile: one escapes."""
    folder = PurePosixPath(model).parent
    found: dict[str, None] = {}
    for location in header.external:
        path = PurePosixPath(location)
        if not location or path.is_absolute() or ".." in path.parts or "\\" in location:
            raise BadFile(
                f"its data lies in {location[:100]!r}: the place must be relative, and without '..'"
            )
        found[str(folder / path)] = None
    return list(found)


def _refuse(start: bytes) -> str:
    if not start:
        raise BadFile("the file is empty")
    raise BadFile("not a GGUF or ONNX file")
