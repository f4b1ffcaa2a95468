"""A real HAProxy before a controller: it has TLS, verifies clients' certificates, and tells of them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.support.agent import free_port
from tests.support.controller import Controller

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
ADDRESS = "127.0.0.2"
"""From which it reaches the controller, so that who comes directly can be told apart."""
CONFIG = """
global
    log stderr local0
defaults
    mode http
    timeout connect 5s
    timeout client 5m
    timeout server 5m
    option forwardfor
frontend fleet
    # A certificate that is over is let in: the controller says so, and lets it be renewed.
    bind 127.0.0.1:{port} ssl crt {pem} ca-file {ca} verify optional crt-ignore-err 10 alpn http/1.1
    http-request del-header x-client-certificate
    http-request set-header x-client-certificate %[ssl_c_der,base64] if {{ ssl_c_used }}
    default_backend controller
backend controller
    server one 127.0.0.1:{controller} source 127.0.0.2
"""


class Haproxy:
    def __init__(self, controller: Controller, folder: Path) -> None:
        """`controller` has plain HTTP."""
        self.port = free_port()
        pem, config = folder / "proxy.pem", folder / "haproxy.cfg"
        controller.run("certificate", "localhost", "127.0.0.1", "--out", str(pem))
        ca = controller.data_dir / "ca.pem"
        config.write_text(CONFIG.format(port=self.port, pem=pem, ca=ca, controller=controller.port))
        self._log = folder / "haproxy.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([HAPROXY, "-db", "-f", config], stdout=log, stderr=log)
        until = time.monotonic() + 30
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
