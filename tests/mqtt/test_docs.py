"""docs/mqtt.md: its configuration and its ACL are run as they stand."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mqtt.broker import Client, Mosquitto, chat
from tests.support.agent import Agent

DOCS = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE))


def test_the_acl_keeps_senders_apart(
    start_agent: Callable[..., Agent], start_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    (tmp_path / "acl").write_text(BLOCKS["acl"])
    for user in ("edge-1", "ann", "bob"):
        create = [] if (tmp_path / "passwords").exists() else ["-c"]
        subprocess.run(["mosquitto_passwd", "-b", *create, tmp_path / "passwords", user, "pass"], check=True)
    # TLS has its own test; the listener and the folder are the fixture's.
    skip = (
        "#",
        "listener",
        "cafile",
        "certfile",
        "keyfile",
        "persistence",
        "autosave",
        "max_queued_messages",
    )
    kept = [line for line in BLOCKS["conf"].splitlines() if not line.startswith(skip)]
    broker = start_broker("\n".join(kept).replace("/etc/mosquitto", str(tmp_path)))
    agent = start_agent(AUTOGLM_NODE="edge-1", AUTOGLM_MQTT_URL=f"mqtt://edge-1:pass@127.0.0.1:{broker.port}")
    agent.connected()
    all_results = "autoglm/v1/edge-1/results/#"
    with (
        Client(broker.port, "autoglm/v1/edge-1/results/ann/#", "answers/ann/#", login="ann:pass") as ann,
        Client(broker.port, all_results, "answers/#", login="bob:pass") as bob,
    ):
        ann.publish("autoglm/v1/edge-1/prompts/ann", chat("mine"))
        ann.on("autoglm/v1/edge-1/results/ann/mine")
        ann.publish("autoglm/v1/edge-1/prompts/ann", chat("reply"), reply="answers/ann/x")
        ann.on("answers/ann/x")
        ann.publish("autoglm/v1/edge-1/prompts/ann", chat("far"), reply="not/allowed/to/edge-1")
        ann.publish("autoglm/v1/edge-1/infer/echo/ann", {"id": "tensors", "inputs": []})
        ann.on("autoglm/v1/edge-1/results/ann/tensors")
        # A connection of its own: mosquitto 2.0.11 ends it for what the ACL denies.
        with Client(broker.port, login="bob:pass") as intruder:
            intruder.publish("autoglm/v1/edge-1/prompts/ann", chat("not-anns"))
        with Client(broker.port, login="bob:pass") as intruder:
            intruder.publish("autoglm/v1/edge-1/infer/echo/ann", {"id": "not-anns-tensors", "inputs": []})
        bob.publish("autoglm/v1/edge-1/prompts/bob", chat("bobs"))
        bob.on("autoglm/v1/edge-1/results/bob/bobs")
        assert {one.topic for one in bob.heard} == {"autoglm/v1/edge-1/results/bob/bobs"}
        assert not any("not-anns" in one.topic for one in ann.heard)
    assert agent.metric('mqtt_messages_total{kind="rejected"}') == 1
    agent.stop()


@pytest.mark.parametrize("name", re.findall(r"`(AUTOGLM_[A-Z0-9_]+)", DOCS))
def test_each_setting_that_is_named_exists(name: str) -> None:
    from agent.config import Settings

    assert name.removeprefix("AUTOGLM_").lower() in Settings.model_fields
