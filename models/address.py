"""What may be shown of where a model comes from."""

from __future__ import annotations

from urllib.parse import urlsplit


def without_secrets(source: str) -> str:
    """A URL fit for messages and Manifests: no password, no query (it may be a signature), no fragment.

    Other sources stay as they are.
    """
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
