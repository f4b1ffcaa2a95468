"""The controller's own certificate is made anew while it runs."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

from cloud_sync.identity import DAY
from cloud_sync.transports.https import pinned
from tests.support.controller import Controller


def shown(controller: Controller) -> bytes:
    """The certificate that a new connection is shown."""
    context = pinned((controller.data_dir / "ca.pem").read_text(), None)
    with (
        socket.create_connection(("127.0.0.1", controller.port), timeout=30) as raw,
        context.wrap_socket(raw) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def until_another(controller: Controller, former: bytes) -> bytes:
    until = time.monotonic() + 60
    while (found := shown(controller)) == former:
        assert time.monotonic() < until, controller.log[-2000:]
        time.sleep(0.05)
    return found


def test_it_is_made_anew_by_its_age_and_on_sighup_and_connections_stay(
    start_controller: Callable[..., Controller],
) -> None:
    one = start_controller(AUTOGLM_CLOUD_SERVER_CERTIFICATE_LIFE_S=str(60 * DAY))
    with one.client() as client:
        assert client.get("/api/v1/nodes").status_code == 200
        assert one.process is not None
        former = shown(one)
        one.process.send_signal(signal.SIGHUP)
        until_another(one, former)
        assert client.get("/api/v1/nodes").status_code == 200
    assert not list(one.data_dir.glob("server-*.pem")), "its key stays nowhere"
    one.stop()
    one.environment["AUTOGLM_CLOUD_SERVER_CERTIFICATE_LIFE_S"] = "3"
    one.start()
    second = until_another(one, shown(one))
    until_another(one, second)
