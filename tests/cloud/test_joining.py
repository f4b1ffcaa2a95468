"""Whom a machine trusts when it joins: the CA that its token names, and nobody else."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloud_sync import identity
from cloud_sync.identity import DAY, Authority, new_authority
from cloud_sync.join_token import JoinToken
from cloud_sync.joining import join
from cloud_sync.membership import Fleet, Membership
from cloud_sync.transports.transport import LinkError

CONTROLLER = new_authority("the controller", time.time())
ATTACKER = new_authority("the attacker", time.time())


class Between:
    """A server on the way, under a CA of its own, that says what is given as the controller's CA."""

    def __init__(self, says: bytes, folder: Path) -> None:
        self.heard: list[str] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(says)

            def do_POST(self) -> None:
                between.heard.append(self.rfile.read(int(self.headers["content-length"])).decode())
                self._say(b"{}")

            def _say(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        key = identity.new_key()
        pair = folder / "between.pem"
        pair.write_bytes(key + ATTACKER.issue_server(key, ["127.0.0.1"], time.time(), DAY))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def between(tmp_path: Path) -> Iterator[Between]:
    one = Between(CONTROLLER.certificate + ATTACKER.certificate, tmp_path)
    yield one
    one.server.shutdown()
    one.server.server_close()


async def test_a_ca_that_is_put_beside_the_controllers_is_not_trusted(
    between: Between, tmp_path: Path
) -> None:
    token = str(JoinToken.new(CONTROLLER.fingerprint))
    with pytest.raises(LinkError, match="CERTIFICATE_VERIFY_FAILED"):
        await join(between.url, token, "machine", {}, tmp_path / "cloud")
    assert not between.heard  # the token above all


def _pair(authority: Authority) -> bytes:
    key = identity.new_key()
    return key + authority.issue_node(identity.request(key, "x"), "x", time.time(), DAY)[0]


def test_an_agent_that_looks_while_its_machine_joins_anew_looks_again_at_the_end(tmp_path: Path) -> None:
    former = Fleet(url="https://former:1", name="former")
    new = Fleet(url="https://new:1", name="new")
    Membership.create(tmp_path, former, CONTROLLER.certificate, _pair(CONTROLLER))
    membership = Membership(tmp_path)
    assert not membership.is_outdated()
    (tmp_path / "fleet.json").write_text(new.model_dump_json())  # the last file that `join --again` writes
    assert membership.is_outdated()
    assert Membership(tmp_path).fleet == new
