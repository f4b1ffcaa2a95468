"""A body of the Open Inference Protocol to an Inference: JSON, or JSON with raw tensors behind it.

With the binary tensor extension the first `Inference-Header-Content-Length` bytes are JSON, and the tensors
that name a `binary_data_size` follow in their order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import msgspec

from agent.doors.inference_protocol import values
from agent.errors import BadRequest
from agent.ids import new_id
from agent.tensor import SIZES, Data, Inference, Tensor, elements

HEADER_LENGTH = "Inference-Header-Content-Length"
MOST_TENSORS = 1024
MOST_DIMS = 16
MOST_ELEMENTS = 1 << 40
MOST_SESSION = 256
MOST_MICROSECONDS = 10**15  # some thirty years
NOT_HERE = {"classification", "shared_memory_region"}  # parameters of Triton's, for inputs and outputs


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Marks(msgspec.Struct):
    id: Any = None
    parameters: Any = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the answer is to look."""

    id: str  # the caller's own; "" where it gave none
    binary: bool  # outputs are raw unless told otherwise
    by_name: dict[str, bool]  # of an output: whether it is to be raw

    def raw(self, name: str) -> bool:
        return self.by_name.get(name, self.binary)


_decoder = msgspec.json.Decoder(_Body)
_marks_decoder = msgspec.json.Decoder(_Marks)
_LENGTH = re.compile(r"[0-9]{1,12}")
T = TypeVar("T")


def header_length(text: str) -> int:
    """What `Inference-Header-Content-Length` says. Raises BadRequest."""
    if not _LENGTH.fullmatch(text):
        raise BadRequest(f"{HEADER_LENGTH} must be a number")
    return int(text)


def marks(body: bytes, header_length: int | None) -> dict[str, Any]:
    """`id` and the parameter `acks`, whatever else is wrong with the body. Raises BadRequest."""
    found = _decode(_marks_decoder, _head(body, header_length))
    parameters = found.parameters if isinstance(found.parameters, dict) else {}
    return {"id": found.id, "acks": parameters.get("acks")}


def read(body: bytes, header_length: int | None, *, model: str, sender: str) -> tuple[Inference, Wanted]:
    """Raises BadRequest."""
    head = _head(body, header_length)
    parsed = _decode(_decoder, head)
    inputs = _inputs(parsed, memoryview(body)[len(head) :])
    outputs = {one.name: one.parameters for one in parsed.outputs}
    asked = inference(inputs, outputs, parsed.parameters, model=model, sender=sender)
    flags = {
        one.name: one.parameters["binary_data"] for one in parsed.outputs if "binary_data" in one.parameters
    }
    return asked, Wanted(parsed.id, parsed.parameters.get("binary_data_output") is True, flags)


def inference(
    inputs: tuple[Tensor, ...],
    outputs: Mapping[str, Mapping[str, Any]],
    parameters: Mapping[str, Any],
    *,
    model: str,
    sender: str,
) -> Inference:
    """Whatever carried them. `outputs` have their parameters, by name. Raises BadRequest."""
    for about in outputs.values():
        if unknown := NOT_HERE & about.keys():
            raise BadRequest(f"an output is asked for with '{min(unknown)}', which this node does not have")
    return Inference(
        id=new_id("infer"),
        model=model,
        inputs=inputs,
        outputs=tuple(outputs),
        priority=_priority(parameters),
        deadline=_deadline(parameters),
        sender=sender,
        session=_session(parameters, sender),
    )


def _head(body: bytes, header_length: int | None) -> bytes:
    if header_length is None:
        return body
    if not 0 < header_length <= len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {header_length}; the body has {len(body)} bytes")
    return body[:header_length]


def _decode(decoder: msgspec.json.Decoder[T], head: bytes) -> T:
    try:
        return decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not an inference request: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def _inputs(body: _Body, rest: memoryview) -> tuple[Tensor, ...]:
    if not body.inputs or len(body.inputs) > MOST_TENSORS or len(body.outputs) > MOST_TENSORS:
        raise BadRequest(f"a request has 1 to {MOST_TENSORS} inputs")
    found, at = [], 0
    for one in body.inputs:
        size = one.parameters.get("binary_data_size")
        if size is None:
            found.append(_tensor(one, None))
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - at:
            raise BadRequest(
                f"input '{one.name[:100]}': binary_data_size is {size}; {len(rest) - at} bytes are left"
            )
        found.append(_tensor(one, rest[at : at + size]))
        at += size
    if at != len(rest):
        raise BadRequest(f"{len(rest) - at} bytes behind the tensors belong to none")
    return tuple(found)


def _tensor(one: _Input, raw: Data | None) -> Tensor:
    name = one.name[:100]
    count = check_input(name, one.datatype, one.shape, one.parameters)
    if raw is None:
        if one.data is None:
            raise BadRequest(f"input '{name}' has no data")
        raw = values.to_raw(name, one.datatype, one.data, count)
    elif one.data is not None:
        raise BadRequest(f"input '{name}' has both data and binary_data_size")
    else:
        check_size(name, one.datatype, raw, count)
    return Tensor(one.name, one.datatype, tuple(one.shape), raw)


def check_input(name: str, datatype: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> int:
    """How many elements an input that is so described has. Raises BadRequest."""
    if datatype not in SIZES and datatype != "BYTES":
        raise BadRequest(f"input '{name}': the datatype '{datatype[:20]}' is not known")
    if len(shape) > MOST_DIMS or any(size < 0 for size in shape):
        raise BadRequest(f"input '{name}' has an impossible shape")
    count = prod(shape)
    if prod(max(1, size) for size in shape) > MOST_ELEMENTS:  # a size of 0 does not make the others small
        raise BadRequest(f"input '{name}' has a shape of over {MOST_ELEMENTS} elements")
    if unknown := NOT_HERE & parameters.keys():
        raise BadRequest(f"input '{name}' has '{min(unknown)}', which this node does not have")
    return count


def check_size(name: str, datatype: str, raw: Data, count: int) -> None:
    """Whether raw bytes are so many elements. Raises BadRequest."""
    if datatype != "BYTES":
        if len(raw) != count * SIZES[datatype]:
            says = f"{len(raw)} bytes, and its shape asks for {count * SIZES[datatype]}"
            raise BadRequest(f"input '{name}' has {says}")
        return
    try:
        there = len(elements(raw))
    except ValueError as error:
        raise BadRequest(f"input '{name}': {error}") from None
    if there != count:
        raise BadRequest(f"input '{name}' has {there} values, and its shape asks for {count}")


def _priority(parameters: Mapping[str, Any]) -> int | None:
    if "priority" not in parameters:
        return None
    value = parameters["priority"]
    if type(value) is not int or not 0 <= value <= 9:
        raise BadRequest("the parameter 'priority' must be a whole number from 0 to 9")
    return int(value)


def _session(parameters: Mapping[str, Any], sender: str) -> str:
    """Triton's `sequence_id`: who keeps the Version that answered; 0 is nobody."""
    given = parameters.get("sequence_id") or ""
    if not isinstance(given, int | str) or len(str(given)) > MOST_SESSION:
        raise BadRequest(
            f"the parameter 'sequence_id' must be a whole number or at most {MOST_SESSION} characters"
        )
    return f"{sender}/{given}" if given else ""


def _deadline(parameters: Mapping[str, Any]) -> float | None:
    """`timeout` is in microseconds, as Triton's is."""
    microseconds = parameters.get("timeout")
    if microseconds in (None, 0):
        return None
    if type(microseconds) is not int or not 0 <= microseconds <= MOST_MICROSECONDS:
        raise BadRequest("the parameter 'timeout' must be a whole number of microseconds")
    return time.monotonic() + microseconds / 1e6
