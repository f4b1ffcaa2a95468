"""A setting that is wrong is told in one line, by its documented name, and without a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.tooling.command import run


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AUTOGLM_HTTP_PORT", "eighty", "AUTOGLM_HTTP_PORT: Input should be a valid integer"),
        ("AUTOGLM_GRPC_PORT", "off", "AUTOGLM_GRPC_PORT: must be a port, or 'none'"),
        ("AUTOGLM_NODE", "edge 7", "AUTOGLM_NODE: must be 1 to 64 letters of A-Z a-z 0-9 . _ -"),
        ("AUTOGLM_API_KEYS", "secret", "AUTOGLM_API_KEYS must be JSON"),
        ("AUTOGLM_API_KEYS", '[{"name": "a"}]', "AUTOGLM_API_KEYS[0]: the key named 'a' needs `sha256` or"),
        ("AUTOGLM_API_KEYS", '[{"name": "a", "key": ""}]', "AUTOGLM_API_KEYS[0]: the key named 'a' needs"),
        ("AUTOGLM_API_KEYS", '[{"name": "a", "sha256": "secret"}]', "AUTOGLM_API_KEYS[0].sha256: must be 64"),
        ("AUTOGLM_API_KEYS", '[{"name": "a", "kee": "secret"}]', "AUTOGLM_API_KEYS[0].kee: is not known"),
        ("AUTOGLM_ALLOWED_HOSTS", "[edge", "AUTOGLM_ALLOWED_HOSTS: must be names with commas"),
        ("AUTOGLM_MODELS", "{", "AUTOGLM_MODELS must be JSON"),
        (
            "AUTOGLM_MODELS",
            '{"m": {"kep_alive": 1}}',
            "AUTOGLM_MODELS.m: there is no setting `kep_alive`: is",
        ),
        ("AUTOGLM_MODELS", '{"a/b": {}}', "AUTOGLM_MODELS.a/b"),
        ("AUTOGLM_MQTT_URL", "http://broker", "AUTOGLM_MQTT_URL: must be mqtt://host:port"),
        ("AUTOGLM_MQTT_URL", "mqtt:broker", "AUTOGLM_MQTT_URL: must be mqtt://host:port"),
        ("AUTOGLM_MQTT_URL", "mqtt://broker:99999", "AUTOGLM_MQTT_URL: has no port from 1 to 65535"),
        ("AUTOGLM_MQTT_URL", "mqtt://me:secret/x@broker", "AUTOGLM_MQTT_URL: has no port from 1 to 65535"),
        ("AUTOGLM_JWT_ISSUER", "http://login.example", "AUTOGLM_JWT_ISSUER: must begin with https://"),
        ("AUTOGLM_CONFIG", "/no/such.toml", "/no/such.toml: there is no such file (AUTOGLM_CONFIG names it)"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(name: str, value: str, says: str) -> None:
    told = run("serve", **{name: value})
    assert told.returncode == 2
    assert told.stderr.startswith(f"autoglm: {says}")
    assert told.stderr.count("\n") == 1
    assert "secret" not in told.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queu_requests = 5", "there is no setting `queu_requests`: is queue_requests meant?"),
        ("zzz = 5", "there is no setting `zzz`\n"),
        ("http_port = ", "Invalid value"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    told = run("serve", AUTOGLM_CONFIG=str(file))
    assert told.returncode == 2
    assert told.stderr.startswith(f"autoglm: {file}: {says}")
    assert told.stderr.count("\n") == 1


def test_a_wrong_setting_of_one_model_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    for text, says in (
        ("[models.m]\npined = true", "AUTOGLM_MODELS.m: there is no setting `pined`: is pinned meant?"),
        ("[models.qwen2.5]\npinned = true", "AUTOGLM_MODELS.qwen2: a name with a dot in it stands in quotes"),
        (
            "[models.m]\ninstances = 0",
            "AUTOGLM_MODELS.m.instances: Input should be greater than",
        ),
    ):
        file.write_text(text)
        told = run("serve", AUTOGLM_CONFIG=str(file))
        assert told.returncode == 2
        assert told.stderr.startswith(f"autoglm: {says}")
        assert told.stderr.count("\n") == 1


def test_a_variable_that_is_no_setting_is_warned_of(start_agent: Callable[..., Agent]) -> None:
    agent = start_agent(AUTOGLM_QUEU_REQUESTS="5", AUTOGLM_CLOUD_URL="")
    warnings = [line for line in agent.log.splitlines() if "there is no setting" in line]
    agent.stop()
    assert len(warnings) == 1
    assert "there is no setting AUTOGLM_QUEU_REQUESTS: is AUTOGLM_QUEUE_REQUESTS meant?" in warnings[0]


def test_the_file_may_set_what_a_variable_has_another_name_for(
    start_agent: Callable[..., Agent], echo_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'model = "{echo_model}"\nmax_batch_size = 3\ndelay_ms = 2\n')
    agent = start_agent(AUTOGLM_CONFIG=str(file), AUTOGLM_MODEL="")
    settings = agent.status()["settings"]
    agent.stop()
    assert (settings["model"], settings["max_batch_size"], settings["delay_ms"]) == (str(echo_model), 3, 2.0)
