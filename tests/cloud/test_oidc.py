"""Operators whom another issuer knows: its tokens count by the roles that they say, also while it is away."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cloud.test_login import Machine
from tests.support.controller import AUTOGLM, Controller
from tests.support.oidc import Issuer

AUDIENCE = "autoglm-controller"
ROLES = {"fleet-admins": "admin", "fleet-users": "viewer"}


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller], issuer: Issuer) -> Controller:
    return start_controller(
        AUTOGLM_CLOUD_OIDC_ISSUER=issuer.url,
        AUTOGLM_CLOUD_OIDC_ROLES=json.dumps(ROLES),
        AUTOGLM_CLOUD_OIDC_ROLE_CLAIM="realm.groups",
        AUTOGLM_CLOUD_OIDC_CLIENT_ID="cli",
    )


def me(controller: Controller, token: str) -> httpx.Response:
    with controller.client(role=None) as client:
        return client.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})


def until(controller: Controller, token: str, status: int) -> httpx.Response:
    end = time.monotonic() + 30
    while (answer := me(controller, token)).status_code != status:
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)
    return answer


def token(issuer: Issuer, *groups: str, sub: str = "ben", **claims: Any) -> str:
    return issuer.token(AUDIENCE, realm={"groups": list(groups)}, sub=sub, **claims)


def test_the_issuers_tokens_open_what_their_roles_allow_and_are_in_the_audit_log(
    controller: Controller, issuer: Issuer
) -> None:
    def of(*groups: str) -> httpx.Response:
        return me(controller, token(issuer, *groups, sub="ann"))

    until(controller, token(issuer, "fleet-users"), 200)
    assert of("fleet-admins").json() == {"name": "oidc:ann", "role": "admin"}
    assert of("fleet-users", "others").json()["role"] == "viewer"
    assert of("others").status_code == 403
    assert of("admin").status_code == 403  # it is the mapping that counts
    with controller.client() as client:
        rows = client.get("/api/v1/audit").json()
        assert [row["actor"] for row in rows if row["action"] == "login"].count("oidc:ann") == 4
        disabled = client.patch("/api/v1/users/oidc:ann", json={"disabled": True})
        assert disabled.status_code == 204
    assert of("fleet-admins").json()["error"]["code"] == "token_revoked"


def test_a_token_that_is_not_valid_here_and_now_is_refused(controller: Controller, issuer: Issuer) -> None:
    until(controller, token(issuer, "fleet-admins"), 200)
    for bad in (
        token(issuer, "fleet-admins", aud="another"),
        token(issuer, "fleet-admins", life_s=-60),
        token(issuer, "fleet-admins", nbf=int(time.time()) + 300),
        token(issuer, "fleet-admins", sub=""),
        token(issuer, "fleet-admins", sub="a\0b"),
        *issuer.forgeries(AUDIENCE, realm={"groups": ["fleet-admins"]}),
        token(issuer, "fleet-admins")[:-8] + "AAAAAAAA",
    ):
        assert me(controller, bad).status_code == 401


def test_keys_are_kept_while_the_issuer_is_away_and_a_new_one_is_found_when_it_is_back(
    controller: Controller, issuer: Issuer
) -> None:
    until(controller, token(issuer, "fleet-users"), 200)
    issuer.stop()
    controller.kill()
    controller.start()
    assert until(controller, token(issuer, "fleet-users"), 200)
    issuer.rotate()
    assert me(controller, token(issuer, "fleet-users")).status_code == 401
    issuer.start()
    until(controller, token(issuer, "fleet-users"), 200)
    asked, begun = issuer.fetched, time.monotonic()
    issuer.rotate()
    unknown = [token(issuer, "fleet-users", jti=str(n)) for n in range(20)]
    issuer.withdraw()
    for one in unknown:
        assert me(controller, one).status_code == 401
    assert issuer.fetched - asked <= 2 + (time.monotonic() - begun) / 3  # SELDOM_S, on however slow a machine


def test_the_command_line_logs_in_by_a_browser_anywhere(
    controller: Controller, issuer: Issuer, tmp_path: Path
) -> None:
    issuer.claims = {"sub": "dan", "realm": {"groups": ["fleet-users"]}}
    machine = Machine(tmp_path, controller)
    command = [AUTOGLM, "cloud", "login", machine.url, "--device", "--ca-fingerprint", machine.fingerprint]
    with subprocess.Popen(command, env=machine.variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Open {issuer.url}/activate and confirm the code WDJB-MJHT\n"
        issuer.approve()
        assert "as oidc:dan, role viewer" in process.stderr.read()
    assert process.returncode == 0
    before = issuer.refresh
    assert machine.run("nodes").returncode == 0
    assert issuer.refresh > before  # its token was near its end, and was renewed there
