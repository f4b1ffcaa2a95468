"""Ids that are unique in this agent."""

from __future__ import annotations

import itertools
import secrets
from functools import cache

_numbers = itertools.count(1)


def new_id(kind: str) -> str:
    """Such as "infer-5d1c09a3e4b7-2f": random bytes for each would cost a system call."""
    return f"{_prefix(kind)}-{next(_numbers):x}"


@cache
def _prefix(kind: str) -> str:
    """Of one kind: who has seen ids of one cannot guess those of another."""
    return f"{kind}-{secrets.token_hex(6)}"
