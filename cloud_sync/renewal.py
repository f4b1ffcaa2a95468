"""When the certificate is renewed: by the controller's clock, since a node's own may be wrong by years."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from cloud_sync import identity
from cloud_sync.backoff import pause
from cloud_sync.membership import Membership
from cloud_sync.messages import Renew
from cloud_sync.transports.transport import LinkError, Rejected, Transport

RENEW_AT = 2 / 3  # of a certificate's life
LOOK_S = 3600.0  # how often the certificate is looked at
log = structlog.get_logger()


class Renewal:
    """Of one identity. Until the controller has said something, nothing is renewed."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._ahead: float | None = None  # the controller's wall time, less this process's monotonic time
        self._over = False
        self._news = asyncio.Event()

    def heard(self, now: float | None) -> None:
        """The controller's wall time; None: it does not say."""
        if now is not None:
            first, self._ahead = self._ahead is None, now - time.monotonic()
            if first:
                self._news.set()

    def refused(self, code: str) -> None:
        """A report was."""
        if code == "certificate_expired":
            self._over = True
            self._news.set()

    async def run(self, transport: Transport) -> None:
        """Until it is renewed."""
        pauses = 0
        while True:
            pair = await asyncio.to_thread(self._membership.identity.read_bytes)
            await self._until_due(pair)
            try:
                return await self._renew(transport, pair)
            except (LinkError, Rejected, OSError) as error:
                log.warning("the certificate cannot be renewed", reason=str(error))
            pauses += 1
            await asyncio.sleep(pause(pauses + 3))

    async def _until_due(self, pair: bytes) -> None:
        begun, ended = identity.life(pair)
        due = begun + identity.EARLIER_S
        due += (ended - due) * RENEW_AT
        while not self._over:
            self._news.clear()
            left = LOOK_S if self._ahead is None else due - self._ahead - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, left)):
                    await self._news.wait()

    async def _renew(self, transport: Transport, pair: bytes) -> None:
        key = identity.new_key()
        csr = identity.request(key, self._membership.fleet.name)
        certificate = pair[pair.index(b"-----BEGIN CERTIFICATE") :].decode()
        asked = Renew(certificate=certificate, csr=csr.decode(), proof=identity.prove(pair, csr))
        renewed = await transport.renew(asked)
        await asyncio.to_thread(self._membership.renew, key + renewed.certificate.encode())
        log.info("the certificate is renewed")
