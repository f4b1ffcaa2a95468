"""Addresses as they stand in settings: what is wrong with one is told where it is set."""

from __future__ import annotations

from urllib.parse import urlsplit


def broker_url(value: str | None) -> str | None:
    """mqtt://..., mqtts://..., `embedded`, or None for "none". ValueError."""
    if value in (None, "", "none"):
        return None
    if value == "embedded":
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ValueError("must be mqtt://host:port, mqtts://host:port, 'embedded' or 'none'")
    _check_port(value)
    return value


def controller_url(value: str | None) -> str | None:
    """https://host:port. ValueError."""
    if not value:
        return None
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be https://host:port")
    _check_port(value)
    return value.rstrip("/")


def proxy_url(value: str | None) -> str | None:
    """http://user:password@host:port, or https://; `none`, whatever the environment says. ValueError."""
    if not value:
        return None
    parts = urlsplit(value)
    if value != "none" and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("must be http://host:port, https://host:port or 'none'")
    _check_port(value)
    return value


def _check_port(url: str) -> None:
    try:
        wrong = urlsplit(url).port == 0
    except ValueError:  # its text has what may be a piece of a password
        wrong = True
    if wrong:
        raise ValueError("has no port from 1 to 65535 (in a password, / and @ are written %2F and %40)")
