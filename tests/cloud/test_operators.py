"""Operators: OAuth 2.0's grants, roles, what ends a login, and how often one may guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest

from tests.support.controller import Controller

PASSWORD = "correct horse battery"
TOKEN = "/api/v1/oauth/token"


def ask(controller: Controller, auth: tuple[str, str] | None = None, **fields: str) -> httpx.Response:
    """At the token endpoint, as anybody."""
    with controller.client(role=None) as client:
        return client.post(TOKEN, data=fields, auth=auth)


def with_token(controller: Controller, token: str) -> httpx.Client:
    client = controller.client(role=None)
    client.headers["authorization"] = f"Bearer {token}"
    return client


def log_in(controller: Controller, name: str, password: str = PASSWORD, **more: str) -> httpx.Response:
    return ask(controller, grant_type="password", username=name, password=password, **more)


def get(controller: Controller, token: str, path: str) -> httpx.Response:
    with with_token(controller, token) as client:
        return client.get(f"/api/v1{path}")


def change(controller: Controller, path: str, **body: Any) -> None:
    with controller.client() as client:
        answer = client.patch(f"/api/v1{path}", json=body)
        assert answer.status_code == 204, answer.text


@pytest.fixture(scope="module")
def user(controller: Controller) -> Callable[..., str]:
    """`user("name", role)`: a new one, whose password is PASSWORD."""

    def make(name: str, role: str = "viewer") -> str:
        with controller.client() as client:
            answer = client.post("/api/v1/users", json={"name": name, "role": role, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return name

    return make


@pytest.fixture(scope="module")
def client_secret(controller: Controller) -> Callable[..., str]:
    """`client_secret("name", role)`: that of a new OAuth client."""

    def make(name: str, role: str = "viewer") -> str:
        with controller.client() as client:
            answer = client.post("/api/v1/clients", json={"name": name, "role": role})
        secret: str = answer.json()["client_secret"]
        return secret

    return make


def test_a_user_logs_in_by_password_and_may_do_what_the_role_allows(
    controller: Controller, user: Callable[..., str]
) -> None:
    answer = log_in(controller, user("vera", "viewer"))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    granted = answer.json()
    assert (granted["token_type"], granted["scope"], granted["expires_in"]) == ("Bearer", "viewer", 900)
    assert get(controller, granted["access_token"], "/me").json() == {"name": "user:vera", "role": "viewer"}
    assert get(controller, granted["access_token"], "/nodes").status_code == 200
    assert get(controller, granted["access_token"], "/users").status_code == 403
    change(controller, "/users/vera", role="admin")
    again = log_in(controller, "vera").json()
    assert get(controller, again["access_token"], "/users").status_code == 200
    change(controller, "/users/vera", role="viewer")  # at once, and for tokens that are out
    assert get(controller, again["access_token"], "/users").status_code == 403


def test_a_client_logs_in_by_its_secret_in_the_header_or_in_the_form(
    controller: Controller, client_secret: Callable[..., str]
) -> None:
    secret = client_secret("ci", "operator")
    header = ask(controller, ("ci", secret), grant_type="client_credentials")
    form = ask(controller, client_id="ci", client_secret=secret, grant_type="client_credentials")
    for answer in (header, form):
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()
        assert get(controller, answer.json()["access_token"], "/me").json()["name"] == "client:ci"
    wrong = ask(controller, ("ci", "guess"), grant_type="client_credentials")
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert wrong.headers["www-authenticate"].startswith("Basic")


def test_a_token_may_be_for_less_than_the_account_but_not_for_more(
    controller: Controller, client_secret: Callable[..., str]
) -> None:
    secret = client_secret("narrow", "operator")
    less = ask(controller, ("narrow", secret), grant_type="client_credentials", scope="viewer").json()
    with with_token(controller, less["access_token"]) as client:
        assert client.get("/api/v1/nodes").status_code == 200
        assert client.post("/api/v1/tokens", json={}).status_code == 403
    more = ask(controller, ("narrow", secret), grant_type="client_credentials", scope="admin")
    assert (more.status_code, more.json()["error"]) == (400, "invalid_scope")


def test_a_token_for_agents_is_none_for_the_controller(
    controller: Controller, client_secret: Callable[..., str]
) -> None:
    secret, how = client_secret("caller", "admin"), {"grant_type": "client_credentials"}
    token = ask(controller, ("caller", secret), audience="autoglm-agent", **how).json()["access_token"]
    assert get(controller, token, "/me").status_code == 401
    other = ask(controller, ("caller", secret), audience="https://elsewhere", **how)
    assert (other.status_code, other.json()["error"]) == (400, "invalid_target")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": "x"}, "invalid_request"),
        ({"grant_type": "password", "username": "no body", "password": "x"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "x.y"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "\0.\0"}, "invalid_grant"),
        ({"grant_type": "password", "username": "\0", "password": "\0"}, "invalid_grant"),
        ({"grant_type": "password", "username": "x", "password": "y", "scope": "root"}, "invalid_scope"),
        ({"grant_type": ["password", "password"]}, "invalid_request"),
    ],
)
def test_what_is_refused_has_oauths_shape(controller: Controller, fields: Any, error: str) -> None:
    answer = ask(controller, **fields)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.json()["error_description"]
    with controller.client(role=None) as client:
        for bad in ({"json": {"grant_type": "password"}}, {"content": b"\xff=\xfe"}):
            assert client.post(TOKEN, **bad).json()["error"] == "invalid_request"  # type: ignore[arg-type]


def test_a_refresh_token_is_good_once_and_a_second_use_ends_the_login(
    controller: Controller, user: Callable[..., str]
) -> None:
    first = log_in(controller, user("rita")).json()["refresh_token"]
    second = ask(controller, grant_type="refresh_token", refresh_token=first).json()
    assert get(controller, second["access_token"], "/me").status_code == 200
    reused = ask(controller, grant_type="refresh_token", refresh_token=first)
    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    after = ask(controller, grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert after.status_code == 400
    assert "login.reused" in actions(controller, "user:rita")


def test_a_user_who_is_disabled_or_has_a_new_password_is_out_at_once(
    controller: Controller, user: Callable[..., str]
) -> None:
    user("dora", "operator")
    for what in ({"disabled": True}, {"password": "another password"}):
        change(controller, "/users/dora", disabled=False, password=PASSWORD)
        granted = log_in(controller, "dora").json()
        assert get(controller, granted["access_token"], "/me").status_code == 200
        change(controller, "/users/dora", **what)
        refused = get(controller, granted["access_token"], "/me")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_revoked")
        again = ask(controller, grant_type="refresh_token", refresh_token=granted["refresh_token"])
        assert again.status_code == 400
        assert log_in(controller, "dora").status_code == 400


def test_who_guesses_must_wait_longer_each_time_and_others_need_not(
    controller: Controller, user: Callable[..., str]
) -> None:
    user("gus")
    answers = [log_in(controller, "gus", f"guess number {n}") for n in range(7)]
    assert answers[0].json()["error"] == "invalid_grant"
    last = answers[-1]
    assert (last.status_code, last.json()["error"]) == (429, "slow_down")
    assert int(last.headers["retry-after"]) >= 1
    assert log_in(controller, "gus").status_code == 429  # the right one too: nothing is learnt meanwhile
    assert log_in(controller, user("hana")).status_code == 200
    assert "login.failed" in actions(controller, "user:gus")


def test_a_user_changes_the_own_password_by_the_former_one(
    controller: Controller, user: Callable[..., str]
) -> None:
    token = log_in(controller, user("paul")).json()["access_token"]
    with with_token(controller, token) as client:
        wrong = {"current": "something else", "password": "a new password"}
        assert client.post("/api/v1/me/password", json=wrong).status_code == 401
        right = {"current": PASSWORD, "password": "a new password"}
        assert client.post("/api/v1/me/password", json=right).status_code == 204
        assert client.get("/api/v1/me").status_code == 401
    assert log_in(controller, "paul", "a new password").status_code == 200


def test_a_weak_password_a_taken_name_and_a_name_that_is_not_there_are_refused(
    controller: Controller, user: Callable[..., str]
) -> None:
    user("once")
    with controller.client() as client:
        for name, password, status in (
            ("once", PASSWORD, 409),
            ("short", "short", 422),
            ("a/b", PASSWORD, 422),
        ):
            body = {"name": name, "password": password}
            assert client.post("/api/v1/users", json=body).status_code == status
        assert client.patch("/api/v1/users/none", json={"disabled": True}).status_code == 404
        for name in ("oidc:%00", "oidc:", "%00"):
            assert client.patch(f"/api/v1/users/{name}", json={"disabled": True}).status_code == 422


def test_discovery_leads_to_the_key_that_verifies_the_tokens(
    controller: Controller, client_secret: Callable[..., str]
) -> None:
    with controller.client(role=None) as client:
        about = client.get("/.well-known/openid-configuration").json()
        assert about == client.get("/.well-known/oauth-authorization-server").json()
        [key] = client.get(httpx.URL(about["jwks_uri"]).path).json()["keys"]
    secret = client_secret("verifier", "viewer")
    fields = {"grant_type": "client_credentials", "audience": "autoglm-agent"}
    token = ask(controller, ("verifier", secret), **fields).json()["access_token"]
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "JWT", "kid": key["kid"]}
    told = jwt.decode(token, jwt.PyJWK(key), ["ES256"], audience="autoglm-agent", issuer=about["issuer"])
    assert (told["sub"], told["roles"]) == ("client:verifier", ["viewer"])


def test_every_change_and_every_login_is_in_the_audit_log(
    controller: Controller, user: Callable[..., str], client_secret: Callable[..., str]
) -> None:
    log_in(controller, user("anna"))
    log_in(controller, "anna", "wrong password")
    change(controller, "/users/anna", role="operator")
    ask(controller, ("audited", client_secret("audited")), grant_type="client_credentials")
    assert actions(controller, "user:anna") == ["account.changed", "login.failed", "login", "account.made"]
    assert actions(controller, "client:audited") == ["login", "account.made"]
    rows = controller.run("audit", "--json", "--limit", "1000").stdout
    assert PASSWORD not in rows
    assert next(row for row in json.loads(rows) if row["action"] == "login.failed")["address"] == "127.0.0.1"


def actions(controller: Controller, subject: str) -> list[str]:
    """Of the audit log, the newest first."""
    with controller.client() as client:
        rows = client.get("/api/v1/audit", params={"limit": 1000}).json()
    return [row["action"] for row in rows if row["target"] == subject]


def test_a_token_of_another_kind_or_key_is_refused(controller: Controller) -> None:
    claims = {"iss": "autoglm-controller", "aud": "autoglm-controller", "sub": "x", "roles": ["admin"]}
    for token in (
        jwt.encode({**claims, "exp": 2**33}, "", "none"),
        jwt.encode({**claims, "exp": 2**33}, "a secret that is long enough for HMAC", "HS256"),
        jwt.encode(claims, (controller.data_dir / "signing.key").read_bytes(), "ES256"),  # it never ends
    ):
        assert get(controller, token, "/me").status_code == 401


def test_a_renewal_that_asks_for_too_much_is_refused_and_the_login_stays(
    controller: Controller, user: Callable[..., str]
) -> None:
    login = {
        "grant_type": "refresh_token",
        "refresh_token": log_in(controller, user("sam")).json()["refresh_token"],
    }
    assert ask(controller, **login, scope="admin").json()["error"] == "invalid_scope"
    assert ask(controller, **login).status_code == 200
