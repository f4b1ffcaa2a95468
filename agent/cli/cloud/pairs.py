"""What is typed: `key=value` (labels; settings, in JSON where they can be), which nodes, durations."""

from __future__ import annotations

import json
from typing import Any

from agent.cli.errors import UsageError
from agent.model_settings import meant
from cloud_sync import duration
from cloud_sync.settings import DesiredModel


def labels(given: list[str]) -> dict[str, str]:
    return dict(_split(one) for one in given)


def settings(given: list[str]) -> dict[str, Any]:
    """`anonymous_limit.requests_per_minute=4` goes into an object; `name=null` takes a setting away."""
    made: dict[str, Any] = {}
    for key, value in map(_split, given):
        *path, last = _path(key)
        if path == ["models"] and not isinstance(_value(value), dict | None):
            near = meant(last.rpartition(".")[2], DesiredModel.model_fields)
            raise UsageError(
                f"{key} is no setting of a model{near or ': see models.NAME.* in docs/cloud.md'}"
            )
        under = made
        for part in path:
            under = under.setdefault(part, {})
            if not isinstance(under, dict):
                raise UsageError(f"{key}: {part} is set to a value and to an object")
        under[last] = _value(value)
    return made


def names(given: list[str]) -> dict[str, Any]:
    """The same for settings that are taken away."""
    return settings([f"{name}=null" for name in given])


def selector(to: str | None, node: str | None) -> str:
    """Of the nodes that `--to` or `--node` names; all, if neither does."""
    if to and node:
        raise UsageError("--to names a group, --node one node: give one of the two")
    return f"node:{node}" if node else to or "all"


def seconds(option: str, text: str) -> float:
    """A duration that was given by that option."""
    try:
        return float(duration.seconds(text))
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


def _path(key: str) -> list[str]:
    """By dots. A Model's name may hold some: what follows it is a setting of Models, or it is in quotes."""
    top, _, rest = key.partition(".")
    if top != "models" or not rest:
        return _filled(key, key.split("."))
    if rest[0] in "\"'" and (end := rest.find(rest[0], 1)) > 0:
        own = rest[end + 1 :].removeprefix(".")
        return _filled(key, [top, rest[1:end], *(own.split(".") if own else [])])
    parts = rest.split(".")
    known = (at for at in range(1, len(parts)) if parts[at] in DesiredModel.model_fields)
    at = next(known, len(parts))
    return _filled(key, [top, ".".join(parts[:at]), *parts[at:]])


def _filled(key: str, path: list[str]) -> list[str]:
    if not all(path):
        raise UsageError(f"{key!r} is no setting's name")
    return path


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
