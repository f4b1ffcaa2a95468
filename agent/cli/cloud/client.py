"""The controller, as operators' commands find it."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from agent.cli.cloud.ways import HOW_TO_START, find
from agent.cli.errors import CommandError
from cloud_sync.messages import API


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

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._client.request(method, path, **more)
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
