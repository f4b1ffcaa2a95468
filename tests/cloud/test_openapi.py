"""The controller does what its OpenAPI says, whatever is asked: Schemathesis asks a real one."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloud_sync import identity
from cloud_sync.controller import tokens
from tests.support.controller import Controller

EXAMPLES = 12  # of each operation
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
QUIET: dict[str, Any] = {
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
    "print_blob": False,
}
NEVER = "/api/v1/node/(hints|leave)"  # one has no end, and the other would be the node's


@pytest.fixture(scope="module")
def behind_proxy(
    start_controller: Callable[..., Controller], database: Callable[[], dict[str, str]]
) -> Controller:
    """One that believes the header with a certificate, so that one client can be operator and node."""
    plain = {"AUTOGLM_CLOUD_TLS": "false", "AUTOGLM_CLOUD_PROXIES": "127.0.0.1"}
    return start_controller(**plain, **database())


@pytest.fixture(scope="module")
def everybody(behind_proxy: Controller) -> dict[str, str]:
    """Headers of an admin and of a node."""
    csr = identity.request(identity.new_key(), "asked").decode()
    with behind_proxy.client() as client:
        joins = {"token": behind_proxy.token(), "csr": csr, "name": "asked"}
        pem = client.post("/api/v1/join", json=joins).json()["certificate"]
    certificate = ssl.PEM_cert_to_DER_cert(pem)
    key = (behind_proxy.data_dir / "signing.key").read_bytes()
    return {
        "authorization": f"Bearer {tokens.sign(key, 'test', 'admin', time.time())}",
        "x-client-certificate": base64.b64encode(certificate).decode(),
    }


@pytest.fixture(scope="module")
def described(behind_proxy: Controller) -> Any:
    config = schemathesis.Config.from_dict({"seed": 1, "generation": {"deterministic": True}})
    found = schemathesis.openapi.from_url(f"{behind_proxy.url}/openapi.json", config=config)
    return found.exclude(path_regex=NEVER)


def test_every_operation_answers_as_it_declares(described: Any, everybody: dict[str, str]) -> None:
    wrong = []
    for found in described.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, **QUIET)
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate(headers=everybody, checks=CHECKS)

        try:
            ask()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - all are asked before it fails
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n".join(wrong)
