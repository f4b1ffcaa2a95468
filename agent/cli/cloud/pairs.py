"""`key=value` as it is typed: labels, and settings whose values are JSON where they can be."""

from __future__ import annotations

import json
from typing import Any

from agent.cli.errors import UsageError


def labels(given: list[str]) -> dict[str, str]:
    return dict(_split(one) for one in given)


def settings(given: list[str]) -> dict[str, Any]:
    """`limits.requests=4` goes into an object; `name=null` takes a setting away."""
    made: dict[str, Any] = {}
    for key, value in map(_split, given):
        *path, last = key.split(".")
        under = made
        for part in path:
            under = under.setdefault(part, {})
            if not isinstance(under, dict):
                raise UsageError(f"{key}: {part} is set to a value and to an object")
        under[last] = _value(value)
    return made


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not key=value")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
