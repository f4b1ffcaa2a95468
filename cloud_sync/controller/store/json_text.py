"""JSON that every database takes: PostgreSQL has neither NUL characters nor infinite numbers in it."""

from __future__ import annotations

import json
import math
from typing import Any


def as_json(value: Any) -> str:
    """NUL becomes U+FFFD, and what is no finite number null."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value))
    return text.replace("\\u0000", "\\ufffd")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
