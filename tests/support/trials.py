"""Trials of Versions on an agent: begun, looked at, and who answers whom."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.support.agent import NO_TLS, Agent


def call(agent: Agent, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        return client.post(path, json=body or {})


def pull(agent: Agent, file: Path, name: str = "echo", **trial: Any) -> str:
    """The Version that came."""
    body = {"source": str(file), "name": name} | ({"trial": trial} if trial else {})
    last: dict[str, Any] = json.loads(call(agent, "/api/pull", body).text.splitlines()[-1])
    assert "version" in last, last
    return str(last["version"])


def live(agent: Agent, model: str = "echo") -> dict[str, dict[str, Any]]:
    return {row["version"]: row for row in agent.status()["models"] if row["name"] == model}


def who(agent: Agent, user: str | None = None, **more: Any) -> str:
    """The Version that answers."""
    answer = agent.chat("hello", **({"user": user} if user else {}), **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["system_fingerprint"]).rpartition("-")[2]


def shares(agent: Agent, users: int) -> Counter[str]:
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(lambda at: who(agent, f"user-{at}"), range(users)))
