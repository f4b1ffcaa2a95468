"""The documentation is whole, true, and needs no other machine."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from agent.doors.openai.bodies import ChatBody, CompletionBody, EmbeddingBody
from agent.doors.openai.requests import read
from tests.support.agent import Agent


@pytest.fixture(scope="module")
def schema(echo_agent: Agent) -> Any:
    return httpx.get(echo_agent.base_url + "/openapi.json").json()


def test_the_page_loads_nothing_from_elsewhere(echo_agent: Agent) -> None:
    page = httpx.get(echo_agent.base_url + "/docs").text
    used = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(used) >= 2
    for path in used:
        assert path.startswith("/")
        assert httpx.get(echo_agent.base_url + path).status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->|\s//.*", "", page).replace("</", "")


def test_the_page_is_where_a_browser_looks_first(echo_agent: Agent) -> None:
    assert httpx.get(echo_agent.base_url + "/").headers["location"] == "/docs"


def test_every_reference_in_the_schema_leads_somewhere(schema: Any) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)))
    assert {"ChatBody", "CompletionBody", "EmbeddingBody", "PullBody", "ErrorBody"} <= names
    assert names <= schema["components"]["schemas"].keys()
    assert "#/$defs" not in json.dumps(schema)


def test_every_route_is_in_the_schema_and_says_what_it_does(schema: Any) -> None:
    assert schema["paths"].keys() == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
        "/api/models",
        "/api/models/{name}",
        "/api/models/{name}/canary",
        "/api/models/{name}/promote",
        "/api/models/{name}/abort",
        "/api/pull",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/config",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/stats",
        "/v2/models/stats",
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
        "/healthz",
        "/readyz",
        "/metrics",
        "/status",
    }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["description"], path


@pytest.mark.parametrize("kind", [ChatBody, CompletionBody, EmbeddingBody])
def test_the_examples_are_accepted(schema: Any, kind: Any) -> None:
    for example in schema["components"]["schemas"][kind.__name__]["examples"]:
        assert read(json.dumps(example).encode(), kind)


def test_every_field_that_is_honoured_is_documented(schema: Any) -> None:
    for kind in (ChatBody, CompletionBody, EmbeddingBody):
        assert schema["components"]["schemas"][kind.__name__]["properties"].keys() == kind.model_fields.keys()
