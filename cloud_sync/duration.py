"""How long: a number of seconds, or as Go and Ollama write it: "5m", "1h30m", "500ms"."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"-?(?:{_PART.pattern})+")


def seconds(value: Any) -> Any:
    """Seconds; what is neither a number nor a duration goes on to be refused."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _WHOLE.fullmatch(text):
        total = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))
        return -total if text.startswith("-") else total
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError('must be seconds, or a duration such as "5m" or "1h30m"')
    return number


Duration = Annotated[float, BeforeValidator(seconds)]
"""Seconds."""
