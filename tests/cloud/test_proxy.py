"""Behind a proxy that has TLS: nodes are who the proxy says they are, if it is one that is believed."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from cloud_sync import identity
from cloud_sync.controller.proxy import read_certificate
from cloud_sync.identity import DAY, Authority, new_authority
from cloud_sync.transports.https import pinned
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.haproxy import ADDRESS, Haproxy

REPORT = {"boot": "boot-one", "number": 1, "version": "0.1.0"}
HEADER = "x-client-certificate"


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(
        AUTOGLM_CLOUD_TLS="false",
        AUTOGLM_CLOUD_PROXIES=f"{ADDRESS}, 10.1.0.0/16",
        AUTOGLM_CLOUD_HEARTBEAT_S="1",
    )


@pytest.fixture(scope="module")
def proxy(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    one = Haproxy(controller, tmp_path_factory.mktemp("haproxy"))
    yield one
    one.stop()


@pytest.fixture
def member(controller: Controller, proxy: Haproxy, tmp_path: Path) -> Path:
    """The identity of a node that no agent runs, which joined through the proxy."""
    token = controller.token()
    joined = controller.try_to_join(tmp_path, f"member-{tmp_path.name}", token, address=proxy.url)
    assert joined.returncode == 0, joined.stderr
    return tmp_path / "cloud" / "identity.pem"


def through(proxy: Haproxy, controller: Controller, pem: Path | None, **headers: str) -> httpx.Client:
    trust = pinned((controller.data_dir / "ca.pem").read_text(), pem)
    return httpx.Client(base_url=f"{proxy.url}/api/v1", verify=trust, headers=headers, timeout=30)


def report(client: httpx.Client) -> tuple[int, str]:
    answer = client.post("/node/report", json=REPORT)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def test_a_node_joins_reports_and_hears_hints_through_the_proxy(
    controller: Controller, proxy: Haproxy, start_node: Callable[..., Agent]
) -> None:
    start_node(controller, "behind", address=proxy.url)
    row = controller.until("behind", ready=True)
    assert row["address"] == "127.0.0.1"
    controller.configure("node:behind", heartbeat_s=600)
    controller.until_observed("behind")
    controller.configure(
        "node:behind", heartbeat_s=600, log_level="debug"
    )  # the next report is far: a hint tells
    controller.until_observed("behind")
    assert "behind" in controller.run("nodes").stdout


def test_a_certificate_is_renewed_through_the_proxy_also_when_it_is_over(
    controller: Controller, proxy: Haproxy, member: Path
) -> None:
    with through(proxy, controller, member) as client:
        assert report(client) == (200, "")
        pair, key = member.read_bytes(), identity.new_key()
        csr = identity.request(key, "x")
        certificate = pair[pair.index(b"-----BEGIN CERTIFICATE") :]
        asked = {"certificate": certificate.decode(), "csr": csr.decode(), "proof": identity.prove(pair, csr)}
        renewed = client.post("/renew", json=asked)
        assert renewed.status_code == 200
    member.write_bytes(key + renewed.json()["certificate"].encode())
    with through(proxy, controller, member) as client:
        assert report(client) == (200, "")
    old, _ = _authority(controller).issue_node(csr, "some-node", time.time() - 9 * DAY, DAY)
    member.write_bytes(key + old)
    with through(proxy, controller, member) as client:
        assert report(client) == (401, "certificate_expired")


def test_without_a_certificate_or_with_a_foreign_one_nobody_is_a_node(
    controller: Controller, proxy: Haproxy, member: Path, tmp_path: Path
) -> None:
    certificate = member.read_text()[member.read_text().index("-----BEGIN CERTIFICATE") :]
    with through(proxy, controller, None, **{HEADER: quote(certificate)}) as client:
        assert report(client) == (401, "no_certificate")  # the proxy takes it away
    foreign, key = new_authority("another fleet", time.time()), identity.new_key()
    made, _ = foreign.issue_node(identity.request(key, "x"), "node", time.time(), DAY)
    pem = tmp_path / "foreign.pem"
    pem.write_bytes(key + made)
    with pytest.raises((httpx.TransportError, ssl.SSLError)), through(proxy, controller, pem) as client:
        report(client)


def test_a_header_with_no_nodes_certificate_makes_nobody_a_node(controller: Controller) -> None:
    for told in (quote((controller.data_dir / "ca.pem").read_text()), "AAAA", "nonsense"):
        with httpx.Client(transport=httpx.HTTPTransport(local_address=ADDRESS)) as client:
            client.base_url = httpx.URL(f"{controller.url}/api/v1")
            client.headers[HEADER] = told
            assert report(client)[0] == 401


def test_headers_of_who_is_no_proxy_count_for_nothing(controller: Controller, member: Path) -> None:
    certificate = member.read_text()[member.read_text().index("-----BEGIN CERTIFICATE") :]
    headers = {HEADER: quote(certificate), "x-forwarded-for": "203.0.113.9"}
    with httpx.Client(base_url=f"{controller.url}/api/v1", headers=headers) as client:
        assert report(client) == (401, "no_certificate")
        guess = {"grant_type": "password", "username": "nobody", "password": "x"}
        assert client.post("/oauth/token", data=guess).status_code == 400
    with controller.client() as client:
        failed = next(row for row in client.get("/api/v1/audit").json() if row["action"] == "login.failed")
    assert failed["address"] == "127.0.0.1"


def test_the_clients_address_is_the_last_on_the_way_that_is_no_proxys(
    controller: Controller, proxy: Haproxy
) -> None:
    guess = {"grant_type": "password", "username": "somebody", "password": "x"}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=ADDRESS)) as client:
        way = {"x-forwarded-for": "198.51.100.1, 203.0.113.9, 10.1.2.3"}
        client.post(f"{controller.url}/api/v1/oauth/token", data=guess, headers=way)
    with controller.client() as client:
        failed = next(row for row in client.get("/api/v1/audit").json() if row["target"] == "user:somebody")
    assert failed["address"] == "203.0.113.9"


def test_the_certificate_is_read_as_nginx_haproxy_and_envoy_write_it(controller: Controller) -> None:
    pem = (controller.data_dir / "ca.pem").read_text()
    der = base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()
    envoys = f'Hash=1;Cert="{quote("another")}",Hash=2;Cert="{quote(pem)}";Subject="CN=a,O=b;Cert=\\"c\\""'
    for told in (quote(pem), der, envoys):
        assert read_certificate(told).split() == pem.encode().split()
    none = f'Hash=1;Cert="{quote(pem)}",Hash=2;Subject="CN=a"'  # the client itself had none
    for told in ("", "-", "%", none, "A" * 100_000):
        assert read_certificate(told) == b""


def _authority(controller: Controller) -> Authority:
    return Authority(
        (controller.data_dir / "ca.pem").read_bytes(), (controller.data_dir / "ca.key").read_bytes()
    )
