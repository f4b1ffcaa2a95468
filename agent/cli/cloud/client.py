"""The controller, as operators' commands find it."""

from __future__ import annotations

import secrets
import ssl
import time
from typing import Any

import httpx

from agent.cli.cloud.ways import HOW_TO_START, find
from agent.cli.errors import CommandError
from cloud_sync.messages import API

LOST_PAUSES_S = (0.2, 1.0, 2.0, 4.0)


class Client:
    """Every failure of a call is a CommandError."""

    def __init__(self) -> None:
        way = find()
        self.url = way.url
        self._client = httpx.Client(
            base_url=self.url + API, auth=way.bearer, verify=way.trust, timeout=30, trust_env=way.environment
        )

    def get(self, path: str, **parameters: Any) -> Any:
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._request(method, path, **more)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise CommandError(
                f"the controller at {self.url} cannot be reached: {error}. {HOW_TO_START}"
            ) from None
        if response.is_success:
            return response.json() if response.content else None
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the controller answered {response.status_code}"
        raise CommandError(message)

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Asked again where the answer was lost: by its key a change is made once."""
        headers = {} if method == "GET" else {"idempotency-key": secrets.token_hex(16)}
        lost = False
        for pause in LOST_PAUSES_S:
            try:
                return self._client.request(method, path, headers=headers, **more)
            except httpx.ConnectError:
                if not lost:
                    raise
            except httpx.TransportError:
                lost = True
            time.sleep(pause)
        return self._client.request(method, path, headers=headers, **more)
