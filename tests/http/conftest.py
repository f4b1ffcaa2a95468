"""Agents and clients that several of the door's tests share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import pytest
from openai import OpenAI

from tests.support.agent import Agent

KEYS = [
    {"name": "all", "sha256": hashlib.sha256(b"key-all").hexdigest()},
    {"name": "boss", "key": "key-boss", "admin": True},
    {"name": "narrow", "key": "key-narrow", "models": ["another"]},
    {"name": "rare", "key": "key-rare", "requests_per_minute": 1},
]


@pytest.fixture(scope="session")
def guarded_agent(start_agent: Callable[..., Agent]) -> Agent:
    """Keys, small and quick bodies, and one more name to be called by."""
    return start_agent(
        shared=True,
        AUTOGLM_API_KEYS=json.dumps(KEYS),
        AUTOGLM_ALLOWED_HOSTS="edge.example, other.example",
        AUTOGLM_MAX_BODY_BYTES="65536",
        AUTOGLM_BODY_TIMEOUT_S="1",
    )


@pytest.fixture(scope="session")
def connect() -> Iterator[Callable[..., OpenAI]]:
    """`connect(agent, key)`: the official client, which does not try again by itself."""
    made: list[OpenAI] = []

    def make(agent: Agent, key: str = "none") -> OpenAI:
        client = OpenAI(base_url=agent.base_url + "/v1", api_key=key, max_retries=0, timeout=60)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
