"""What stands before the routes: who may come in, from which page, with what body. Pure ASGI.

Order: Host (DNS rebinding), Origin (other sites' scripts), API key or JWT, declared length of the body. With
keys or an issuer configured, everything needs one but the probes and the documentation, which tell nothing of
the node.
Whoever comes by the unix socket is known by its file mode, and only the bounds of the body hold for them.
"""

from __future__ import annotations

import ipaddress
import platform
import time
from collections.abc import Iterable
from functools import cache
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.access import LOCAL, Access, Caller
from agent.config import Settings
from agent.doors.http.errors import HostNotAllowed, OriginNotAllowed, error_response
from agent.doors.http.exchange import Bodies, Exchange
from agent.errors import AgentError
from agent.telemetry import Telemetry

log = structlog.get_logger()

BODIES = 8  # of the largest size: so many may be on their way at once
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_PREFIX = "/docs/"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Wraps the application. `access` None: the unix socket's side, where all are trusted."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry, access: Access | None) -> None:
        self._app = app
        self._settings = settings
        self._access = access
        self._bodies = Bodies(BODIES * settings.max_body_bytes)
        self._counters = cache(telemetry.http_requests.labels)  # by route and status
        self._log = log.bind()  # once: it costs more than most of the rest
        self._hosts = Hosts(settings.http_host, settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(
            scope,
            receive,
            send,
            bodies=self._bodies,
            max_body=self._settings.max_body_bytes,
            body_timeout=self._settings.body_timeout_s,
        )
        structlog.contextvars.bind_contextvars(request_id=exchange.id)
        try:
            state = scope["state"]
            state["request_id"] = exchange.id
            state["caller"] = await self._admit(scope, exchange)
        except AgentError as error:
            await error_response(error, scope["path"])(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.release()
            self._note(scope, exchange)

    async def _admit(self, scope: Scope, exchange: Exchange) -> Caller:
        caller = LOCAL if self._access is None else await self._identify(scope, exchange, self._access)
        exchange.check_length()
        return caller

    async def _identify(self, scope: Scope, exchange: Exchange, access: Access) -> Caller:
        host = exchange.headers.get("host", "")
        self._hosts.check(host)
        if scope["method"] not in _SAFE_METHODS and "origin" in exchange.headers:
            self._hosts.check_origin(exchange.headers["origin"], host)
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return Caller(sender="http:anonymous")
        caller = await access.caller(exchange.headers.get("authorization"))
        if caller.user:
            structlog.contextvars.bind_contextvars(user=caller.user, tenant=caller.tenant)
        return caller

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        status = 499 if exchange.gone and exchange.status == 0 else exchange.status or 500
        route = getattr(scope.get("route"), "path", "none")
        self._counters(route, status).inc()
        tell = self._log.info if scope["method"] == "POST" or status == 500 else self._log.debug
        tell(
            "http request",
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            seconds=round(time.monotonic() - exchange.started, 4),
            gone=exchange.gone,
        )


class Hosts:
    """The names by which this node may be called: loopback's, its own, and those that the settings add.

    A browser that was led here by another site's DNS name still sends that name as Host. An address is no
    name: where the node listens on all interfaces, any address will do.
    """

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        names = {name.lower() for name in allowed}
        self._all = "*" in names
        self._extra = names
        self._names = names | {"localhost", bound.lower()}
        self._fine: str | None = None  # the Host header that was let in last: mostly it is the same again
        self._any_address = is_everywhere(bound)
        if self._any_address:
            own = platform.node().lower()
            self._names |= {own, f"{own}.local"}

    def check(self, host: str) -> None:
        """Raises HostNotAllowed."""
        if host == self._fine:
            return
        name = _name(f"//{host}")
        if self._all or (name and name in self._names) or self._is_fine_address(name):
            self._fine = host
            return
        shown = f"'{host[:100]}'" if host else "that is missing"
        raise HostNotAllowed(f"A Host header {shown} is refused; AUTOGLM_ALLOWED_HOSTS can allow it.")

    def check_origin(self, origin: str, host: str) -> None:
        """The node's own pages may post, and those of allowed hosts. Raises OriginNotAllowed."""
        if self._all or _netloc(origin) == host.lower() or _name(origin) in self._extra:
            return
        raise OriginNotAllowed(
            f"Requests from pages of '{origin[:100]}' are refused; AUTOGLM_ALLOWED_HOSTS can allow that host."
        )

    def _is_fine_address(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback


def is_everywhere(host: str) -> bool:
    """Whether listening there means to listen on all interfaces."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104


def _name(url: str) -> str:
    """The host of a URL, without port and brackets; "" where there is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
