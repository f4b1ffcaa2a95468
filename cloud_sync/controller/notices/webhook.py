"""A notice by HTTP POST, signed as https://www.standardwebhooks.com says (symmetric, `v1`)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import time

import httpx

from cloud_sync.controller.notices.notice import NotDelivered, Notice

PREFIX = "whsec_"
TIMEOUT_S = 10.0


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(24)).decode()


def key_of(secret: str) -> bytes:
    """ValueError: it is no secret."""
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError("a secret is `whsec_` and 24 to 64 bytes in base64")
    return key


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()


async def post(client: httpx.AsyncClient, url: str, secret: str, notice: Notice) -> None:
    """NotDelivered, unless the answer is 2xx."""
    now = int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(secret, notice.id, now, notice.body),
    }
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),  # however slowly it answers
            client.stream("POST", url, content=notice.body, headers=headers) as response,
        ):
            if not response.is_success:  # what it says besides is not read
                raise NotDelivered(f"the receiver answered {response.status_code}")
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise NotDelivered(str(error) or type(error).__name__) from error


def new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT_S, headers={"user-agent": "autoglm-controller"})
