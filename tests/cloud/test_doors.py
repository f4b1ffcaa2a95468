"""The controller as the issuer of tokens for its agents' own doors."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from tests.support.agent import Agent
from tests.support.controller import Controller


def test_who_has_an_account_at_the_controller_may_ask_its_agents(
    start_controller: Callable[..., Controller], start_agent: Callable[..., Agent]
) -> None:
    controller = start_controller(AUTOGLM_CLOUD_NAMES="127.0.0.1")
    agent = start_agent(
        AUTOGLM_JWT_ISSUER=controller.url,
        AUTOGLM_JWT_CA_FILE=str(controller.data_dir / "ca.pem"),
    )

    def token(name: str, role: str, **more: str) -> str:
        fields = {"grant_type": "client_credentials", **more}
        with controller.client() as client:
            made = client.post("/api/v1/clients", json={"name": name, "role": role})
            secret = made.json()["client_secret"]
            del client.headers["authorization"]
            answer = client.post("/api/v1/oauth/token", data=fields, auth=(name, secret))
        return str(answer.json()["access_token"])

    def ask(path: str, token: str) -> int:
        return httpx.get(agent.base_url + path, headers={"authorization": f"Bearer {token}"}).status_code

    viewer = token("viewer", "viewer", audience="autoglm-agent")
    until = time.monotonic() + 30
    while ask("/v1/models", viewer) != 200:  # the agent may be quicker than its first question to the issuer
        assert time.monotonic() < until, agent.log[-2000:]
    assert ask("/api/models", viewer) == 403
    assert ask("/api/models", token("boss", "admin", audience="autoglm-agent")) == 200
    assert ask("/v1/models", token("other", "admin")) == 401  # it is for the controller
