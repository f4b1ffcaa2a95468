"""What may be shown of a URL, such as that which a model comes from."""

from __future__ import annotations

from urllib.parse import urlsplit


def without_login(url: str) -> str:
    """ValueError: it is no URL."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def without_secrets(source: str) -> str:
    """A URL fit for messages and Manifests: no password, no query (it may be a signature), no fragment.

    Other sources stay as they are.
    """
    if "://" not in source:
        return source
    try:
        return urlsplit(without_login(source))._replace(query="", fragment="").geturl()
    except ValueError:
        return ""
