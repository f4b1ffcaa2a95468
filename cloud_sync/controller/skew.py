"""How a node's release stands to the controller's own."""

from __future__ import annotations

import re
from typing import Literal

from cloud_sync import __version__

Skew = Literal["", "older", "newer", "other"]


def skew(version: str, own: str = __version__) -> Skew:
    """ "" for the same, or where none was told; "other" where that cannot be said."""
    if not version or version == own:
        return ""
    theirs, ours = _numbers(version), _numbers(own)
    if theirs == ours:
        return "other"
    return "older" if theirs < ours else "newer"


def _numbers(version: str) -> list[int]:
    """Of the release: 1.2.0 of 1.2.0rc1. Without zeros at the end, which say nothing."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(one) for one in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
