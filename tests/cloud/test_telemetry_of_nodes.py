"""What a real node tells of itself reaches a real controller: once, whatever dies, and nobody's secrets."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.waiting import until

NAME = "teller"


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")


@pytest.fixture(scope="module")
def node(controller: Controller, start_node: Callable[..., Agent]) -> Agent:
    return start_node(controller, NAME, AUTOGLM_TELEMETRY_PERIOD_S="1")


def ask(controller: Controller, path: str, **parameters: Any) -> Any:
    with controller.client() as client:
        answer = client.get(f"/api/v1{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(controller: Controller, *kinds: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(controller, "/events", node=NAME, kind=list(kinds), limit=1000)
    return sorted(found, key=lambda event: event["at"])


def drained(node: Agent) -> bool:
    told = node.status()["telemetry"]
    return told is not None and not any(told["rows"].values())


def test_metrics_and_events_arrive(controller: Controller, node: Agent) -> None:
    assert node.chat("hello").status_code == 200
    until(lambda: events(controller, "start"))
    until(lambda: events(controller, "model_loaded"))
    names = until(lambda: [row for row in ask(controller, "/series") if "request_success" in row["name"]])
    assert names
    assert node.metric("telemetry_sent_bytes_total") > 0


def test_what_happens_while_the_controller_is_away_arrives_once(controller: Controller, node: Agent) -> None:
    until(lambda: drained(node))
    controller.kill()
    worker = node.worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    until(lambda: node.status()["telemetry"]["rows"]["events"])
    node.wait("/readyz")
    until(lambda: node.metric("telemetry_rows_waiting"))
    node.kill()  # the agent itself: what is on its disk is there
    node.start()
    controller.start()
    [lost] = until(lambda: events(controller, "worker_lost"))
    assert "SIGKILL" in lost["body"]["reason"]
    until(lambda: len(events(controller, "start")) == 2)
    until(lambda: drained(node))
    told = Counter((row["kind"], row["at"]) for row in events(controller))
    assert max(told.values()) == 1
    assert controller.until(NAME, ready=True)


def test_a_document_that_is_applied_is_an_event(controller: Controller, node: Agent) -> None:
    controller.configure(f"node:{NAME}", log_excerpts="error")
    generation = controller.until_observed(NAME)["generation"]
    [applied] = until(
        lambda: [
            row for row in events(controller, "desired_applied") if row["body"]["generation"] == generation
        ]
    )
    assert applied["body"]["items"] == {"log_excerpts": "applied"}
    controller.configure(f"node:{NAME}", log_excerpts=None)
    controller.until_observed(NAME)


def test_prompts_are_samples_where_that_is_set_and_without_what_is_private(
    controller: Controller, node: Agent
) -> None:
    assert not ask(controller, "/samples", node=NAME)
    controller.configure(f"node:{NAME}", prompt_samples=1, redact_patterns=["Project [A-Z]\\w+"])
    controller.until_observed(NAME)
    until(lambda: node.status()["settings"]["prompt_samples"] == 1)
    for number in range(30):  # what is set is looked at each second
        assert node.chat(f"write to ann@example.com of Project Zeus, {number}").status_code == 200
        if node.status()["telemetry"]["rows"]["samples"]:
            break
        time.sleep(0.2)
    told = until(lambda: ask(controller, "/samples", node=NAME))[-1]["body"]
    assert told["prompt"].startswith("user: write to [email] of [redacted], ")
    assert (told["model"], told["version"]) == ("echo", node.status()["models"][0]["version"])


def test_a_warning_of_the_log_arrives_without_secrets(controller: Controller, node: Agent) -> None:
    node.chat("x", model="no-such-model")
    worker = until(lambda: node.worker_pid)
    os.kill(worker, signal.SIGKILL)
    found = until(lambda: [one for one in ask(controller, "/logs", node=NAME) if "worker lost" in str(one)])
    assert found[-1]["kind"] == "warning"
    node.wait("/readyz")


def test_a_damaged_file_is_set_aside_and_the_loss_is_told(controller: Controller, node: Agent) -> None:
    node.stop()
    file = node.data_dir / "telemetry.sqlite"
    file.write_bytes(b"SQLite format 3\0" + os.urandom(9000))
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    node.start()
    [lost] = until(lambda: events(controller, "database_lost"))
    assert lost["body"]["what"] == "telemetry"
    assert (node.data_dir / lost["body"]["file"]).exists()


def test_a_machine_that_is_no_node_of_a_fleet_writes_nothing(echo_agent: Agent) -> None:
    assert echo_agent.chat("hello").status_code == 200
    assert echo_agent.status()["telemetry"] is None
    assert not list(echo_agent.data_dir.glob("telemetry*"))
