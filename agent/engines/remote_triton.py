"""A Model of tensors that a server of the Open Inference Protocol runs, over HTTP: Triton, MLServer, ...

Tensors go and come raw where the server has the binary tensor extension, else as JSON. What they may be, the
server judges; it batches, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np

from agent.engines import tensors
from agent.engines.engine import EngineError, Progress, TensorInfo
from agent.engines.upstream import TryAgain, Upstream, parsed
from agent.errors import BadRequest, Unavailable, UpstreamFailed
from agent.frames import MAX_FRAME, Infer
from agent.remote_worker import RemoteTensorWorker
from agent.tensor import SIZES, Tensor, elements
from models.errors import BadFile
from models.onnx import TensorSpec
from models.remote import Remote, read

MOST_METADATA = 1 << 20  # bytes
MOST_ANSWER = MAX_FRAME - (1 << 20)  # bytes: it must fit into a frame
FRAMED = 1 << 10  # bytes that a frame has about a tensor, at most, beside its name
MOST_SIZE = 1 << 53  # of an axis; frames have no room for more
BINARY = "binary_tensor_data"
LENGTH = "Inference-Header-Content-Length"


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, le=MOST_SIZE)]]
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


class _Spec(msgspec.Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(le=MOST_SIZE)]]

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.datatype, tuple(None if size < 0 else size for size in self.shape))


class _Metadata(msgspec.Struct):
    inputs: list[_Spec] | None = None
    outputs: list[_Spec] | None = None
    platform: str = ""


class TritonServer:
    def __init__(self, remote: Remote, keys: Path) -> None:
        self._remote = remote
        self._upstream = Upstream(remote, f"{remote.url}/v2", keys)
        version = f"/versions/{remote.version}" if remote.version else ""
        self._path = f"/models/{quote(remote.model, safe='')}{version}"
        self._binary = False

    @property
    def concurrency(self) -> int:
        return self._remote.concurrency

    async def look(self) -> TensorInfo:
        await self._get(f"{self._path}/ready")
        server = await self._get("")
        metadata = await self._get(self._path)
        try:
            extensions = parsed(server).get("extensions") or []
            told = msgspec.convert(parsed(metadata), _Metadata)
        except (ValueError, AttributeError) as error:
            raise UpstreamFailed(self._upstream.says(f"describes itself wrongly: {error}")) from None
        self._binary = BINARY in extensions
        return TensorInfo(
            engine="triton",
            device="remote",
            inputs=tuple(one.spec() for one in told.inputs or ()),
            outputs=tuple(one.spec() for one in told.outputs or ()),
            runners=self._remote.concurrency,
            details={
                "url": self._remote.url,
                "model": self._remote.model,
                "platform": told.platform[:100],
                "binary": self._binary,
            },
        )

    async def infer(self, asked: Infer) -> tuple[Tensor, ...]:
        content, length = write(asked, binary=self._binary)
        headers = {"Content-Type": "application/json" if length is None else "application/octet-stream"}
        if length is not None:
            headers[LENGTH] = str(length)

        async def once() -> tuple[Tensor, ...]:
            async with self._upstream.request("POST", f"{self._path}/infer", content, headers) as response:
                found = response.headers.get(LENGTH, "")
                body = await self._upstream.whole(response, MOST_ANSWER)
                return self._outputs(body, int(found) if found.isdecimal() else None)

        return await self._upstream.persist(once, asked.deadline)

    async def close(self) -> None:
        await self._upstream.close()

    async def _get(self, path: str) -> bytes:
        status, body = await self._upstream.look(path, MOST_METADATA)
        if status == 200:
            return body
        if status == 400 and path.endswith("/ready"):  # Triton's word for it
            raise Unavailable(self._upstream.says(f"says that {self._remote.model!r} is not ready"))
        error = self._upstream.refusal(status, body)
        raise error.error if isinstance(error, TryAgain) else error

    def _outputs(self, body: bytes, length: int | None) -> tuple[Tensor, ...]:
        try:
            made = read_outputs(body, length)
            size = sum(FRAMED + len(one.name.encode()) + len(one.data) for one in made)
        except (ValueError, TypeError, OverflowError, KeyError, EngineError) as error:
            raise UpstreamFailed(self._upstream.says(f"sent outputs that are none: {error}")) from None
        if size > MOST_ANSWER:  # in JSON they may have been smaller
            told = f"sent outputs of {size} bytes, and at most {MOST_ANSWER} can be given"
            raise UpstreamFailed(self._upstream.says(told))
        return made


def write(asked: Infer, *, binary: bool) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where raw tensors follow it. BadRequest."""
    described: list[dict[str, Any]] = []
    for one in asked.inputs:
        about: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": one.shape}
        about |= {"parameters": {"binary_data_size": len(one.data)}} if binary else {"data": _values(one)}
        described.append(about)
    head: dict[str, Any] = {"id": asked.id, "inputs": described}
    if asked.outputs:
        raw = {"parameters": {"binary_data": True}} if binary else {}
        head["outputs"] = [{"name": name} | raw for name in asked.outputs]
    elif binary:
        head["parameters"] = {"binary_data_output": True}
    try:
        data = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise BadRequest("the server takes JSON alone, which has no infinity and no NaN") from None
    return (b"".join([data, *(one.data for one in asked.inputs)]), len(data)) if binary else (data, None)


def read_outputs(body: bytes, length: int | None) -> tuple[Tensor, ...]:
    """ValueError, TypeError, OverflowError, KeyError, EngineError: it is no answer."""
    head = body if length is None else body[:length]
    at, made = len(head), []
    for one in msgspec.convert(parsed(head), _Answer).outputs:
        size = (one.parameters or {}).get("binary_data_size")
        if size is None:
            made.append(_from_json(one))
            continue
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise ValueError(f"{one.name[:100]} has a size of {size}")
        made.append(_checked(Tensor(one.name, one.datatype, tuple(one.shape), body[at : at + size])))
        at += size
    return tuple(made)


def _values(tensor: Tensor) -> list[Any]:
    flat: list[Any] = tensors.to_array(tensor).ravel().tolist()
    if tensor.datatype != "BYTES":
        return flat
    try:
        return [element.decode() for element in flat]
    except UnicodeDecodeError:
        raise BadRequest(
            f"input {tensor.name} has bytes that are not UTF-8: JSON cannot carry them"
        ) from None


def _from_json(one: _Output) -> Tensor:
    array = np.array(one.data, tensors.dtype(one.datatype)).reshape(one.shape)
    return _checked(tensors.to_tensor(one.name, array))


def _checked(tensor: Tensor) -> Tensor:
    wanted = prod(tensor.shape)
    there = len(elements(tensor.data)) if tensor.datatype == "BYTES" else None
    if there is None and len(tensor.data) != wanted * SIZES[tensor.datatype]:
        raise ValueError(f"{tensor.name[:100]} has {len(tensor.data)} bytes, which do not fit its shape")
    if there is not None and there != wanted:
        raise ValueError(f"{tensor.name[:100]} has {there} values, and its shape asks for {wanted}")
    return tensor


def load(model: str, settings: Mapping[str, Any], progress: Progress) -> RemoteTensorWorker:
    """The entry point: `model` is the path of its description. EngineError."""
    try:
        return RemoteTensorWorker(TritonServer(read(Path(model)), Path(settings["keys"])))
    except BadFile as error:
        raise EngineError(str(error)) from None
