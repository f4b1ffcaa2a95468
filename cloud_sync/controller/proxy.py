"""Behind a proxy that has TLS: the client's address and certificate, as it tells them in headers.

They are believed from the proxies that are configured, and taken away from what anybody else sends. A proxy
must set or remove them itself in all that it passes on.
"""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Sequence
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_sync.controller.wire import CERTIFICATE

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FORWARDED = b"x-forwarded-for"
MOST = 32 * 1024  # characters of a certificate in a header


class BehindProxy:
    """`header`: that with the client's certificate."""

    def __init__(self, app: ASGIApp, proxies: Sequence[Network], header: str) -> None:
        self._app, self._proxies = app, proxies
        self._header = header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            told = [(name, value) for name, value in scope["headers"] if name in (self._header, FORWARDED)]
            peer, port = scope["client"] or ("", 0)
            if told and self._is_proxy(peer):
                state = scope.setdefault("state", {})
                state[CERTIFICATE] = state.get(CERTIFICATE) or self._certificate(told)
                scope["client"] = (self._client(peer, told), port)
            scope["headers"] = [one for one in scope["headers"] if one not in told]
        await self._app(scope, receive, send)

    def _certificate(self, told: Sequence[tuple[bytes, bytes]]) -> bytes:
        found = [value for name, value in told if name == self._header]
        return read_certificate(found[0].decode("latin-1")) if len(found) == 1 else b""

    def _client(self, peer: str, told: Sequence[tuple[bytes, bytes]]) -> str:
        """The last address of the way that is no proxy's."""
        way = b",".join(value for name, value in told if name == FORWARDED).decode("latin-1").split(",")
        for one in reversed([part.strip() for part in way if part.strip()]):
            if not _is_address(one):
                break
            peer = one
            if not self._is_proxy(one):
                break
        return peer

    def _is_proxy(self, text: str) -> bool:
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            return False
        if found.version == 6 and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._proxies)


def read_certificate(text: str) -> bytes:
    """PEM, from PEM with URL escapes (nginx), base64 of DER (HAProxy) or Envoy's field; b"": it is none."""
    if len(text) > MOST:
        return b""
    for field in _split(_split(text, ",")[-1], ";"):  # of Envoy's last element, which is the client's
        if field.strip().startswith("Cert="):
            text = field.strip().removeprefix("Cert=").strip('"')
    text = unquote(text.strip())
    if text.startswith("-----BEGIN CERTIFICATE-----"):
        return text.encode()
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return ssl.DER_cert_to_PEM_cert(der).encode() if der else b""


def _split(text: str, separator: str) -> list[str]:
    """Where it stands outside of quotes."""
    if separator not in text:
        return [text]
    parts, begun, quoted = [], 0, False
    for at, one in enumerate(text):
        if one == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif one == separator and not quoted:
            parts.append(text[begun:at])
            begun = at + 1
    return [*parts, text[begun:]]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
