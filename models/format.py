"""Which kind of file a model is, whatever it is called, and so which Engine runs it."""

from __future__ import annotations

from pathlib import Path

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


def engine_for(path: Path) -> str:
    """Check a model's file: "llama", "onnx", "openai" or "triton". BadFile: what is wrong; OSError."""
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
    if external := onnx.read_header(path).external:
        raise BadFile(
            f"its weights lie in other files ({external[0][:100]}, ...): save it with its data inside"
        )
    return "onnx"


def _remote_engine(path: Path) -> str:
    try:
        return remote.read(path).engine
    except BadFile as error:
        raise BadFile(f"not a GGUF or ONNX file, nor a remote model's description: {error}") from None


def _refuse(start: bytes) -> str:
    if not start:
        raise BadFile("the file is empty")
    raise BadFile("not a GGUF or ONNX file")
