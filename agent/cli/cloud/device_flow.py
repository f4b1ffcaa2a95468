"""Login at an OpenID Connect issuer by another device's browser (RFC 8628)."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

from agent.cli.cloud.ways import Login, token_answer, with_token
from agent.cli.errors import CommandError
from cloud_sync.issuer import is_safe
from cloud_sync.messages import API

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
INTERVAL_S, SLOWER_S = 5.0, 5.0
LONGEST_S = 1800.0


def device_login(login: Login, tell: Callable[[str], None]) -> Login:
    """`tell` says where to go. CommandError; httpx.HTTPError."""
    with httpx.Client(verify=login.trust(), timeout=30) as client:
        way = client.get(f"{login.url}{API}/oauth/issuer").json()
    if not way.get("client_id"):
        raise CommandError(
            "this controller names no issuer's client (AUTOGLM_CLOUD_OIDC_CLIENT_ID): use --user"
        )
    with httpx.Client(verify=ssl.create_default_context(), timeout=30) as client:
        about = client.get(f"{way['issuer'].rstrip('/')}/.well-known/openid-configuration").json()
        begin, token_url = about.get("device_authorization_endpoint"), about.get("token_endpoint")
        if not (begin and token_url and is_safe(begin) and is_safe(token_url)):
            raise CommandError(f"{way['issuer']} has no login by another device")
        asked = token_answer(client.post(begin, data={"client_id": way["client_id"], "scope": way["scope"]}))
        where = asked.get("verification_uri_complete") or asked["verification_uri"]
        tell(f"Open {where} and confirm the code {asked['user_code']}")
        answer = _poll(client, token_url, way["client_id"], asked)
    made = login.model_copy(update={"client_id": way["client_id"], "token_url": token_url})
    return with_token(made, answer)


def _poll(client: httpx.Client, url: str, client_id: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Until somebody has confirmed, or refused. CommandError."""
    fields = {"grant_type": GRANT, "device_code": asked["device_code"], "client_id": client_id}
    pause = float(asked.get("interval", INTERVAL_S))
    until = time.monotonic() + min(LONGEST_S, float(asked.get("expires_in", LONGEST_S)))
    while time.monotonic() < until:
        time.sleep(pause)
        response = client.post(url, data=fields)
        match response.json().get("error") if response.is_error else None:
            case "authorization_pending":
                pass
            case "slow_down":
                pause += SLOWER_S
            case _:
                return token_answer(response)
    raise CommandError("nobody confirmed the code in time")
