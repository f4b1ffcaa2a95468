"""JWTs of an issuer: whom they let in by HTTP and gRPC, within whose limits, under which names."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from agent.config_access import JwtSettings
from agent.jwt_access import TENANTS, USERS, JwtAccess, sender
from agent.telemetry import Telemetry
from cloud_sync.issuer import Issuer as Keys
from tests.support.agent import Agent, free_port
from tests.support.oidc import Issuer

AUDIENCE = "autoglm-agent"
KEYS = [{"name": "boss", "key": "key-boss", "admin": True}]


@pytest.fixture(scope="module")
def jwt_agent(start_agent: Callable[..., Agent], issuer: Issuer) -> Agent:
    return start_agent(
        AUTOGLM_API_KEYS=json.dumps(KEYS),
        AUTOGLM_JWT_ISSUER=issuer.url,
        AUTOGLM_JWT_TENANT_CLAIM="org.name",
        AUTOGLM_JWT_LIMIT='{"requests_per_minute": 4}',
        AUTOGLM_JWT_TENANT_LIMIT='{"requests_per_minute": 6}',
        AUTOGLM_GRPC_PORT=str(free_port()),
    )


def get(agent: Agent, path: str, token: str) -> httpx.Response:
    return httpx.get(agent.base_url + path, headers={"authorization": f"Bearer {token}"})


def ask(agent: Agent, token: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(agent.base_url + "/v1/chat/completions", json=body, headers=headers, timeout=60)


def call(agent: Agent, token: str) -> grpc.StatusCode:
    """What ServerLive says by gRPC."""
    with grpc.insecure_channel(f"127.0.0.1:{agent.environment['AUTOGLM_GRPC_PORT']}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        try:
            live(b"", metadata=[("authorization", f"Bearer {token}")], timeout=60)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def until(agent: Agent, token: str, status: int) -> None:
    end = time.monotonic() + 30
    while (answer := get(agent, "/v1/models", token)).status_code != status:
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)


def test_a_token_lets_in_beside_the_keys(
    jwt_agent: Agent, issuer: Issuer, connect: Callable[..., OpenAI]
) -> None:
    token = issuer.token(AUDIENCE, sub="openai")
    answer = connect(jwt_agent, token).chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.choices[0].message.content == "hello"
    assert call(jwt_agent, token) is grpc.StatusCode.OK
    assert get(jwt_agent, "/v1/models", "key-boss").status_code == 200
    assert get(jwt_agent, "/v1/models", "no-key").status_code == 401
    assert httpx.get(jwt_agent.base_url + "/v1/models").status_code == 401


def test_what_is_not_valid_here_and_now_is_told_in_each_protocols_shape(
    jwt_agent: Agent, issuer: Issuer
) -> None:
    bad = [
        issuer.token("autoglm-controller"),
        issuer.token(AUDIENCE, life_s=-60),
        issuer.token(AUDIENCE, nbf=int(time.time()) + 300),
        issuer.token(AUDIENCE, iss="http://127.0.0.1:1"),
        issuer.token(AUDIENCE, sub=""),
        issuer.token(AUDIENCE)[:-8] + "AAAAAAAA",
        *issuer.forgeries(AUDIENCE),
        "a.b.c",
    ]
    for token in bad:
        openais = get(jwt_agent, "/v1/models", token)
        assert (openais.status_code, openais.json()["error"]["code"]) == (401, "invalid_token"), token
        assert openais.headers["www-authenticate"] == "Bearer"
        assert isinstance(get(jwt_agent, "/v2/repository/index", token).json()["error"], str)
        assert call(jwt_agent, token) is grpc.StatusCode.UNAUTHENTICATED
    endless = issuer.token(AUDIENCE, sub="x" * 20_000)
    assert get(jwt_agent, "/v1/models", endless).status_code == 401


def test_administration_is_for_the_administrators_role(jwt_agent: Agent, issuer: Issuer) -> None:
    assert get(jwt_agent, "/api/models", issuer.token(AUDIENCE, roles=["admin"])).status_code == 200
    assert get(jwt_agent, "/api/models", issuer.token(AUDIENCE, roles="admin other")).status_code == 200
    assert get(jwt_agent, "/api/models", issuer.token(AUDIENCE, roles=["user"])).status_code == 403


def test_users_and_tenants_have_limits_of_their_own(jwt_agent: Agent, issuer: Issuer) -> None:
    def of(user: str, tenant: str) -> int:
        return ask(jwt_agent, issuer.token(AUDIENCE, sub=user, org={"name": tenant})).status_code

    assert [of("bob", "acme") for _ in range(5)] == [200, 200, 200, 200, 429]
    assert [of("eve", "acme") for _ in range(3)] == [200, 200, 429]  # the tenant's six
    assert of("bob", "umbrella") == 200  # another bob


def test_user_and_tenant_are_in_the_log_and_in_the_metrics(jwt_agent: Agent, issuer: Issuer) -> None:
    assert ask(jwt_agent, issuer.token(AUDIENCE, sub="carol", org={"name": "initech"})).status_code == 200
    rows = [json.loads(line) for line in jwt_agent.log.splitlines() if line.startswith("{")]
    line = next(row for row in rows if row.get("user") == "carol" and row["event"] == "http request")
    assert line["tenant"] == "initech"
    text = get(jwt_agent, "/metrics", "key-boss").text
    assert 'autoglm:jwt_requests_total{tenant="initech",user="carol"} 1.0' in text
    after = next(row for row in reversed(rows) if row["event"] == "http request")
    assert "user" not in after or after["user"] == "carol"


def test_a_key_that_is_new_is_found_and_tokens_count_without_the_issuer_also_after_a_restart(
    start_agent: Callable[..., Agent], issuer: Issuer
) -> None:
    agent = start_agent(AUTOGLM_JWT_ISSUER=issuer.url, AUTOGLM_JWT_ROLE="edge")
    token = issuer.token(AUDIENCE, roles=["edge"])
    assert get(agent, "/v1/models", token).status_code == 200
    assert get(agent, "/v1/models", issuer.token(AUDIENCE)).status_code == 403
    assert httpx.get(agent.base_url + "/v1/models").status_code == 401  # though there are no keys
    issuer.rotate()
    until(agent, issuer.token(AUDIENCE, roles=["edge"]), 200)
    issuer.stop()
    try:
        agent.restart()
        assert get(agent, "/v1/models", issuer.token(AUDIENCE, roles=["edge"])).status_code == 200
    finally:
        issuer.start()


async def test_however_many_users_there_are_their_metrics_are_few(issuer: Issuer, tmp_path: Path) -> None:
    telemetry, count = Telemetry(), USERS + 100
    access = JwtAccess(JwtSettings(), Keys(issuer.url, AUDIENCE, cache=tmp_path / "keys.json"), telemetry)
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(access.run())
        for number in range(count):
            token = issuer.token(AUDIENCE, sub=f"user-{number}", tenant=f"tenant-{number}")
            assert (await access.caller(token)).tenant == f"tenant-{number}"
        fetching.cancel()
    families = text_string_to_metric_families(telemetry.render().decode())
    samples = [
        one for family in families for one in family.samples if one.name == "autoglm:jwt_requests_total"
    ]
    assert sum(one.value for one in samples) == count
    assert len({one.labels["tenant"] for one in samples}) <= TENANTS + 1
    assert len(samples) <= USERS + TENANTS + 1


def test_names_cannot_be_chosen_so_that_another_pays() -> None:
    assert len({sender("b", "a/"), sender("/b", "a"), sender("b", "a%2F"), sender("a/b", "")}) == 4


async def test_keys_that_are_none_cost_neither_the_others_nor_the_agent(tmp_path: Path) -> None:
    class Odd(Issuer):
        def jwks(self) -> dict[str, object]:
            broken = {"kty": "RSA", "kid": self.kid, "n": 7, "e": "AQAB"}
            return {"keys": ["none", 5, None, broken, *super().jwks()["keys"]]}

    issuer = Odd()
    keys = Keys(issuer.url, AUDIENCE, cache=tmp_path / "keys.json")
    try:
        async with asyncio.TaskGroup() as agent:
            running = agent.create_task(keys.run())
            token = issuer.token(AUDIENCE)
            assert (await keys.claims(token))["sub"] == "ann"
            running.cancel()
    finally:
        issuer.stop()
