"""Parts of the traffic that the settings give to Versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.trials import live, pull
from tests.support.waiting import until


def test_versions_have_the_parts_that_the_settings_give_them_from_the_start(
    start_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start_agent()
    [first] = live(agent)
    second = pull(agent, write_gguf(tmp_path / "second.gguf", salt=7))
    agent.stop()
    agent.environment["AUTOGLM_MODELS"] = json.dumps({"echo": {"weights": {first: 30, "no-such": 5}}})
    agent.start()
    until(lambda: len(live(agent)) == 2)
    parts = {version: (row["role"], row["weight"]) for version, row in live(agent).items()}
    assert parts == {second: ("stable", 70), first: ("canary", 30)}
    until(lambda: "a version has no part of the traffic" in agent.log)
    agent.stop()
