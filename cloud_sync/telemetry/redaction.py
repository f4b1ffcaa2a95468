"""Takes out of text what is nobody else's business. By RE2: no pattern can take long, whoever set it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import re2

_BUILT_IN = (
    (r"-----BEGIN [A-Z ]+-----(?s:.*?)(?:-----END [A-Z ]+-----|\z)", "[key]"),
    (r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", "[token]"),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}", r"\1 [token]"),
    (r"(://)[^/\s@]+@", r"\1[secret]@"),
    (
        r"(?i)\b([a-z0-9_-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|authorization))"
        r"(\"?'?\s*(?:[=:]|\bis\b)\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,;]+)",
        r"\1\2[secret]",
    ),
    (r"\b(?:sk|pk|rk|gh[pousr]|github_pat|glpat|hf|xox[a-z]|npm|pypi)[-_][A-Za-z0-9_-]{8,}", "[token]"),
    (r"\b(?:AKIA|ASIA|AIza|ya29\.)[A-Za-z0-9_-]{8,}", "[token]"),
    (r"[A-Za-z0-9+_=-]{32,}", "[token]"),
    (r"[\pL\pN._%+-]+@[\pL\pN-]+(?:\.[\pL\pN-]+)+", "[email]"),
    (r"\p{Nd}(?:[ .()/-]{0,2}\p{Nd}){6,}", "[number]"),
)


class BadPattern(ValueError):
    """It is no pattern of RE2's; the message says why."""


class Redaction:
    """Takes out e-mail addresses, long runs of digits, tokens, keys, passwords, and what matches `more`."""

    def __init__(self, more: Sequence[str] = ()) -> None:
        """BadPattern."""
        self._patterns = [
            *((compiled(pattern), "[redacted]") for pattern in more),
            *((compiled(pattern), instead) for pattern, instead in _BUILT_IN),
        ]

    def clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs are no text
        for pattern, instead in self._patterns:
            text = str(pattern.sub(instead, text))
        return text


def compiled(pattern: str) -> Any:
    """BadPattern."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise BadPattern(f"{pattern!r}: {_said(error)}") from None


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else "is no pattern"
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
