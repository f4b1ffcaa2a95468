"""Vectors as they are kept: FP32, little endian."""

from __future__ import annotations

import math
from array import array

SIZE = 4  # bytes of a number


def unit(vector: bytes) -> bytes:
    """The same direction, of length 1. A vector of zeros stays."""
    values = array("f", vector)
    length = math.hypot(*values) or 1.0
    return array("f", [value / length for value in values]).tobytes()
