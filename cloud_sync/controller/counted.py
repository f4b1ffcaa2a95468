"""Counts requests by route and status, and how long it took until the answer began."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_sync.controller.telemetry.counts import Counts

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Counted:
    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")  # never the path that was asked for
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._counts.requests.labels(method, route, message["status"]).inc()
                self._counts.seconds.labels(route).observe(time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, counted)
