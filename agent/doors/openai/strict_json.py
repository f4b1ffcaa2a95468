"""JSON as callers must send it: UTF-8, no duplicate keys, no NaN, bounded nesting; else a BadRequest."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from agent.errors import BadRequest

MAX_DEPTH = 64
MAX_NODES = 20_000  # arrays and objects
MAX_ITEMS = 400_000  # commas, about: three times the ids of a prompt of 128k tokens
LARGE = 64 * 1024  # bytes; to read more than this would hold the event loop up


def load_object(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` holds. Raises BadRequest, which says where the text is wrong."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8: byte {error.start} is wrong.") from None
    if not text.strip():
        raise BadRequest("The body is empty: send a JSON object.")
    _check_parts(data)
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # of an integer of thousands of digits
        raise BadRequest("The body holds a number with too many digits.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"The body must be a JSON object, not {_name(value)}.")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_parts(data: bytes) -> None:
    """Millions of small values in a body of a few MB would cost seconds: counted before anything is built."""
    if not _has_many(data):
        return
    # Perhaps they are in strings, as in a prompt of code: a body of few strings is counted without them.
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > MAX_ITEMS or _has_many(b"".join(bare.split(b'"')[::2])):
        raise BadRequest(f"The body holds more than {MAX_NODES} arrays and objects, or {MAX_ITEMS} values.")


def _has_many(data: bytes) -> bool:
    return data.count(b"[") + data.count(b"{") > MAX_NODES or data.count(b",") > MAX_ITEMS


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRequest("The body has a key twice in one object.", param=twice[:64])
    return result


def _no_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body is not valid JSON: {name} is not a JSON number.")


def _check_depth(value: Any) -> None:
    """Breadth first, so that the check itself needs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "something else")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
