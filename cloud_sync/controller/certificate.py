"""The server's certificate, made anew while the controller runs: at two thirds of its life, or when asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time

import structlog

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.keys import server_certificate
from cloud_sync.identity import Authority

RENEW_AT = 2 / 3  # of its life
LOOK_S = 3600.0  # how often the wall clock is looked at: it may jump
AGAIN_S = 60.0  # how soon again where it could not be made
log = structlog.get_logger()


class ServerCertificate:
    """Connections that are there already keep the one that they began with."""

    def __init__(self, context: ssl.SSLContext, authority: Authority, settings: ControllerSettings) -> None:
        self._context, self._authority, self._settings = context, authority, settings
        self._asked = asyncio.Event()

    def renew_now(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled; begins with one that was made just now."""
        due = self._due()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, max(0, due - time.time()))):
                    await self._asked.wait()
            if not self._asked.is_set() and time.time() < due:
                continue
            self._asked.clear()
            try:
                await asyncio.to_thread(self._renew)
                due = self._due()
            except (OSError, ssl.SSLError):
                log.exception("the server's certificate cannot be made anew", again_in_s=AGAIN_S)
                due = time.time() + AGAIN_S

    def _due(self) -> float:
        return time.time() + self._settings.server_certificate_life_s * RENEW_AT

    def _renew(self) -> None:
        path = server_certificate(self._authority, self._settings, time.time())
        try:
            self._context.load_cert_chain(path)
        finally:
            path.unlink()
        log.info("the server's certificate is made anew")
