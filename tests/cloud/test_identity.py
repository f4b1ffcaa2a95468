"""Who is a node, and who is not: tokens, certificates, clones."""

from __future__ import annotations

import json
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from cloud_sync import identity
from cloud_sync.identity import DAY, Authority, new_authority
from cloud_sync.transports.https import pinned
from tests.support.agent import Agent
from tests.support.controller import Controller

REPORT = {"boot": "boot-one", "number": 1, "version": "0.1.0"}


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def authority(controller: Controller) -> Authority:
    return Authority(
        (controller.data_dir / "ca.pem").read_bytes(), (controller.data_dir / "ca.key").read_bytes()
    )


def post(controller: Controller, identity: Path | None, path: str, body: object) -> httpx.Response:
    with controller.client(identity, role=None) as client:
        return client.post(f"/api/v1{path}", json=body)


@pytest.fixture
def member(controller: Controller, tmp_path: Path) -> Path:
    """The identity of a node that no agent runs."""
    controller.join(tmp_path, f"member-{tmp_path.name}")
    return tmp_path / "cloud" / "identity.pem"


def test_a_join_token_is_good_for_one_machine_and_for_it_again(
    controller: Controller, tmp_path: Path
) -> None:
    token = controller.token()
    first, second = tmp_path / "first", tmp_path / "second"
    assert controller.try_to_join(first, "only", token).returncode == 0
    refused = controller.try_to_join(second, "other", token)
    assert refused.returncode == 1
    assert "was used" in refused.stderr
    key = identity.new_key()
    asked = {"token": controller.token(), "csr": identity.request(key, "x").decode(), "name": "again"}
    answers = [post(controller, None, "/join", asked) for _ in range(2)]  # the first answer was lost
    assert [one.status_code for one in answers] == [201, 201]
    other = {**asked, "csr": identity.request(identity.new_key(), "x").decode()}
    assert code(post(controller, None, "/join", other)) == (401, "token_used")


def test_a_token_that_is_too_old_or_of_another_controller_joins_nobody(
    controller: Controller, tmp_path: Path
) -> None:
    with controller.client() as client:
        token = client.post("/api/v1/tokens", json={"life_s": 0.01}).json()["token"]
    time.sleep(0.02)
    old = controller.try_to_join(tmp_path / "old", "old", token)
    assert "too old" in old.stderr
    id, secret, _ = controller.token().split(".")
    foreign = controller.try_to_join(tmp_path / "foreign", "foreign", f"{id}.{secret}.{'0' * 64}")
    assert "not the controller that this token comes from" in foreign.stderr
    assert controller.try_to_join(tmp_path / "none", "none", "nonsense").returncode == 2


def test_a_name_that_a_node_has_is_not_given_to_another(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path / "a", "taken")
    refused = controller.try_to_join(tmp_path / "b", "taken", controller.token())
    assert refused.returncode == 1
    assert "taken" in refused.stderr


def test_what_is_a_nodes_needs_a_certificate_and_what_is_an_operators_a_token(
    controller: Controller, member: Path
) -> None:
    assert post(controller, member, "/node/report", REPORT).status_code == 200
    assert code(post(controller, None, "/node/report", REPORT)) == (401, "no_certificate")
    assert code(post(controller, member, "/tokens", {})) == (401, "no_token")
    with controller.client(role="viewer") as viewer:
        assert viewer.get("/api/v1/nodes").status_code == 200
        assert code(viewer.post("/api/v1/tokens", json={})) == (403, "not_allowed")


def test_a_foreign_or_self_signed_certificate_is_refused(controller: Controller, tmp_path: Path) -> None:
    foreign, key = new_authority("another fleet", time.time()), identity.new_key()
    certificate, _ = foreign.issue_node(identity.request(key, "x"), "node", time.time(), DAY)
    pem = tmp_path / "foreign.pem"
    pem.write_bytes(key + certificate)
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        post(controller, pem, "/node/report", REPORT)
    pem.write_bytes(foreign.key + foreign.certificate)
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        post(controller, pem, "/node/report", REPORT)


def test_one_that_the_ca_made_but_the_database_does_not_know_is_refused(
    controller: Controller, tmp_path: Path
) -> None:
    key = identity.new_key()
    certificate, _ = authority(controller).issue_node(identity.request(key, "x"), "ghost", time.time(), DAY)
    pem = tmp_path / "ghost.pem"
    pem.write_bytes(key + certificate)
    assert code(post(controller, pem, "/node/report", REPORT)) == (401, "unknown_certificate")


def test_a_certificate_is_renewed_by_the_old_key_alone(controller: Controller, member: Path) -> None:
    pair, key = member.read_bytes(), identity.new_key()
    csr = identity.request(key, "x")
    certificate = pair[pair.index(b"-----BEGIN CERTIFICATE") :].decode()
    asked = {"certificate": certificate, "csr": csr.decode(), "proof": identity.prove(pair, csr)}
    forged = {**asked, "proof": identity.prove(key, csr)}
    assert code(post(controller, None, "/renew", forged)) == (401, "not_proven")
    renewed = post(controller, None, "/renew", asked)  # without TLS's word: it may be over
    assert renewed.status_code == 200
    member.write_bytes(key + renewed.json()["certificate"].encode())
    assert post(controller, member, "/node/report", REPORT).status_code == 200


def test_two_machines_with_one_identity_are_found_and_must_join_anew(
    controller: Controller,
    start_node: Callable[..., Agent],
    start_agent: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    controller.configure("node:twin", heartbeat_s=1)
    one = start_node(controller, "twin")
    controller.until("twin", ready=True)
    shutil.copytree(one.data_dir / "cloud", tmp_path / "clone" / "cloud")
    start_agent(data_dir=tmp_path / "clone")
    row = controller.until("twin", state="cloned")
    assert row["name"] == "twin"
    assert one.chat("still here").status_code == 200


def test_a_revoked_node_is_out_within_seconds_and_a_machine_may_take_its_place(
    controller: Controller, start_node: Callable[..., Agent]
) -> None:
    one = start_node(controller, "revoked", {"kind": "door"})
    controller.configure("node:revoked", priority=4)
    controller.until_observed("revoked")
    controller.run("revoke", "revoked")
    identity = one.data_dir / "cloud" / "identity.pem"
    assert code(post(controller, identity, "/node/report", REPORT)) == (403, "revoked")
    with controller.client(identity, role=None) as client:
        assert code(client.get("/api/v1/node/hints")) == (403, "revoked")
    assert one.chat("it serves on").status_code == 200
    assert (
        "--replace revoked"
        in controller.try_to_join(one.data_dir / "x", "revoked", controller.token()).stderr
    )
    token = controller.run("token", "--replace", "revoked").stdout.strip()
    assert controller.try_to_join(one.data_dir, "revoked", token).returncode == 1
    assert controller.try_to_join(one.data_dir, "any", token, "--again").returncode == 0
    controller.configure("node:revoked", priority=3)  # the running agent takes its new identity up
    row = controller.until_observed("revoked", seconds=100)
    assert (row["state"], row["labels"]) == ("active", {"kind": "door"})


def test_a_stream_of_hints_ends_with_the_identity(controller: Controller, member: Path) -> None:
    name = f"member-{member.parent.parent.name}"
    with (
        controller.client(member, role=None) as client,
        client.stream("GET", "/api/v1/node/hints") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        controller.run("revoke", name)
        assert not [line for line in lines if line.startswith("event")]


def test_labels_decide_which_layers_a_node_has(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path, "labelled", area="north")
    controller.configure("area=south", priority=1)
    controller.configure("area=south,floor=2", priority=2)
    with controller.client(tmp_path / "cloud" / "identity.pem", role=None) as node:

        def settings() -> object:
            return node.get("/api/v1/node/desired").json()["settings"]

        assert settings() == {}
        controller.run("label", "labelled", "area=south")
        assert settings() == {"priority": 1}
        controller.run("label", "labelled", "floor=2")
        assert settings() == {"priority": 2}
        controller.run("label", "labelled", "floor=", "area=")
        assert settings() == {}
    assert controller.run("label", "nobody", "a=b", check=False).returncode == 1


async def test_every_change_is_in_the_audit_log_which_is_only_added_to(
    controller: Controller, tmp_path: Path
) -> None:
    controller.join(tmp_path, "audited")
    controller.run("config", "set", "--node", "audited", "priority=7")
    rows = json.loads(controller.run("audit", "--json", "--limit", "1000").stdout)
    joined = next(row for row in rows if row["action"] == "node.joined" and row["target"] == "audited")
    changed = next(row for row in rows if row["target"] == "node:audited")
    assert joined["actor"].startswith("token:")
    assert joined["address"] == "127.0.0.1"
    assert changed["actor"].startswith("local:")
    assert changed["details"]["changes"] == {"priority": 7}
    assert "config.changed" in controller.run("audit").stdout
    for statement in ("DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"):
        with pytest.raises(DBAPIError, match="only added to"):
            await controller.execute(statement)


def test_a_restart_is_no_clone(controller: Controller, start_node: Callable[..., Agent]) -> None:
    one = start_node(controller, "restarts")
    for _ in range(3):
        controller.until("restarts", ready=True)
        one.kill()
        one.restart()
    controller.configure("node:restarts", priority=3)
    controller.until_observed("restarts")
    assert controller.nodes()["restarts"]["state"] == "active"


def test_a_tls_client_that_does_not_pin_the_ca_is_refused_by_itself(controller: Controller) -> None:
    with httpx.Client(base_url=controller.url) as client, pytest.raises(httpx.ConnectError):
        client.get("/healthz")
    assert pinned((controller.data_dir / "ca.pem").read_text(), None).verify_mode is ssl.CERT_REQUIRED
