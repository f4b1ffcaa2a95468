"""The running agent, as commands find it: by its unix socket, which needs no key, else by its HTTP port."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from agent.cli.errors import CommandError, UsageError

if TYPE_CHECKING:
    from agent.config import Settings

SERVICE_SOCKET = Path("/var/lib/autoglm/agent.sock")
TIMEOUT = httpx.Timeout(10, read=600)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is made without reading certificates
HOW_TO_START = "Start one: autoglm serve (or: make run)"


class Node:
    """One running agent. `where` names the way in; every failure of a call is a CommandError."""

    def __init__(self, client: httpx.Client, where: str) -> None:
        self._client = client
        self.where = where

    def get(self, path: str) -> Any:
        with _translated(self.where):
            return _checked(self._client.get(path)).json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        with _translated(self.where):
            answer = _checked(self._client.post(path, json=body))
            return answer.json() if answer.content else None

    def delete(self, path: str) -> Any:
        with _translated(self.where):
            return _checked(self._client.delete(path)).json()

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """The lines of the answer, as they come."""
        with _translated(self.where), self._client.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
            yield from _checked(response).iter_lines()

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON objects of a server-sent stream, up to `[DONE]`."""
        for line in self.stream(path, body | {"stream": True}):
            data = line.removeprefix("data:").strip()
            if line.startswith("data:") and data != "[DONE]":
                event: dict[str, Any] = json.loads(data)
                if "error" in event:
                    raise CommandError(event["error"]["message"])
                yield event


def load_settings(**given: Any) -> Settings:
    """The settings in force, with what was given on the command line over them."""
    from pydantic import ValidationError

    from agent.config import CONFIG_FILE, Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        unknown = first["type"] == "extra_forbidden"
        says = "is not known" if unknown else first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{_named(*first['loc'])}: {says}") from None
    except (ValueError, OSError) as error:  # a variable that pydantic-settings cannot parse, or the file
        if variable := re.search(r'field "(\w+)" from source "Env', str(error)):
            raise UsageError(f"{_named(variable[1])} must be JSON") from None
        says = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"{os.environ.get('AUTOGLM_CONFIG') or CONFIG_FILE}: {says}") from None


def _named(setting: str | int, *within: str | int) -> str:
    """A setting as the documentation names it: `AUTOGLM_API_KEYS[0].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in within)
    return f"AUTOGLM_{str(setting).upper().removeprefix('AUTOGLM_')}" + "".join(parts)


def find(settings: Settings) -> Node | None:
    """The agent of this data directory, else the service's, else whatever agent has the HTTP port."""
    for socket in dict.fromkeys((settings.socket, SERVICE_SOCKET)):
        if os.access(socket, os.R_OK | os.W_OK):
            client = httpx.Client(
                transport=httpx.HTTPTransport(uds=str(socket), verify=NO_TLS),
                base_url="http://localhost",
                timeout=TIMEOUT,
            )
            if _answers(client):
                return Node(client, str(socket))
    url = http_url(settings)
    key = os.environ.get("AUTOGLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False, verify=NO_TLS)
    return Node(client, url) if _answers(client) else None


def need(settings: Settings) -> Node:
    node = find(settings)
    if node is None:
        raise CommandError(
            f"no agent is running at {settings.socket} or {http_url(settings)}. {HOW_TO_START}"
        )
    return node


def http_url(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.http_host, settings.http_host)  # noqa: S104
    return f"http://{host}:{settings.http_port}"


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        error = response.json()["error"]
        message = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        message = f"{response.request.url.path} answered {response.status_code} {response.reason_phrase}"
    if response.status_code in (401, 403):
        message += " Set AUTOGLM_API_KEY, or run as the agent's user to use its socket."
    raise CommandError(message)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise CommandError(f"the agent at {where} went away: {error}. autoglm status tells more") from error
