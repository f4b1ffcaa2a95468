"""Bad input gets an error in words, and nothing else is disturbed."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.controller import tokens
from cloud_sync.transports.https import pinned
from tests.support.controller import Controller

REPORT: dict[str, Any] = {"boot": "boot-one", "version": "0.1.0"}


def test_a_document_of_50_mb_is_refused_before_it_is_read(controller: Controller) -> None:
    key = (controller.data_dir / "signing.key").read_bytes()
    head = (
        "PATCH /api/v1/config HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {tokens.sign(key, 'test', 'admin', time.time())}\r\n"
        f"content-length: {50 << 20}\r\n\r\n"
    )
    context = pinned((controller.data_dir / "ca.pem").read_text(), None)
    with (
        socket.create_connection(("127.0.0.1", controller.port), timeout=30) as raw,
        context.wrap_socket(raw) as tls,
    ):
        tls.sendall(head.encode() + b'{"settings":')
        assert b" 413 " in tls.recv(1000)
    assert controller.nodes() is not None


def test_a_body_that_grows_beyond_the_bound_is_cut_off(controller: Controller) -> None:
    def pieces() -> Any:
        for _ in range(80):
            yield b" " * 65536

    with controller.client() as client:
        answer = client.patch("/api/v1/config", content=pieces())
        assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"settings": 1}', b"\xff\xfe", b"1e999"])
def test_what_is_no_document_is_refused(controller: Controller, body: bytes) -> None:
    with controller.client() as client:
        answer = client.patch("/api/v1/config", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"]


def test_bytes_that_are_no_tls_disturb_nobody(controller: Controller) -> None:
    with socket.create_connection(("127.0.0.1", controller.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.settimeout(10)
        with pytest.raises((OSError, AssertionError)):
            assert raw.recv(100).startswith(b"HTTP")
    context = pinned((controller.data_dir / "ca.pem").read_text(), None)
    with (
        socket.create_connection(("127.0.0.1", controller.port)) as raw,
        context.wrap_socket(raw) as tls,
    ):
        assert isinstance(tls, ssl.SSLSocket)
        tls.sendall(b"nonsense\r\n\r\n")
        assert b" 400 " in tls.recv(1000)
    assert controller.nodes() is not None


def test_a_controller_that_a_backup_brought_back_opens_the_next_epoch(
    controller: Controller, tmp_path: Path
) -> None:
    controller.join(tmp_path, "ahead")
    with controller.client(tmp_path / "cloud" / "identity.pem", role=None) as node:
        answer = node.post("/api/v1/node/report", json={**REPORT, "number": 1}).json()
        epoch = answer["epoch"]
        knows = {**REPORT, "number": 2, "epoch": epoch, "generation": 100}
        answer = node.post("/api/v1/node/report", json=knows).json()
        assert answer["epoch"] == epoch + 1
        assert node.get("/api/v1/node/desired").json()["epoch"] == epoch + 1
        late = node.post("/api/v1/node/report", json={**knows, "number": 3}).json()
        assert late["epoch"] == epoch + 1


def test_desired_is_sent_again_only_if_it_changed(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path, "etag")
    with controller.client(tmp_path / "cloud" / "identity.pem", role=None) as node:
        first = node.get("/api/v1/node/desired")
        again = node.get("/api/v1/node/desired", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        controller.configure("node:etag", priority=2)
        newer = node.get("/api/v1/node/desired", headers={"if-none-match": first.headers["etag"]})
        assert newer.json()["settings"] == {"priority": 2}


def test_a_report_that_was_long_on_its_way_changes_nothing(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path, "late")
    with controller.client(tmp_path / "cloud" / "identity.pem", role=None) as node:

        def report(boot: str, number: int, reason: str) -> str:
            body = {**REPORT, "boot": boot, "number": number, "reason": reason}
            assert node.post("/api/v1/node/report", json=body).status_code == 200
            told: str = controller.nodes()["late"]["reported"]["reason"]
            return told

        assert report("boot-one", 2, "second") == "second"
        assert report("boot-one", 1, "first") == "second"
        assert report("boot-two", 1, "started again") == "started again"
        assert report("boot-one", 3, "sent as it was killed") == "started again"
        assert report("boot-two", 2, "on") == "on"
