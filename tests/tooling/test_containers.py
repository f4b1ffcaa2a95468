"""The container files, as far as they can be tried without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent import Agent

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "Dockerfile", ROOT / "Dockerfile.arm64"]


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    found = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(name, rest.strip()) for name, _, rest in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_all_that_the_package_needs(path: Path) -> None:
    sources = [
        source
        for name, rest in instructions(path)
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in sources)
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "openautoglm.py",
        "agent",
        "cloud_sync",
        "models",
    } <= set(sources)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_image_runs_without_root_and_by_its_base_argument(path: Path) -> None:
    found = instructions(path)
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    assert found[last] == ("FROM", "${BASE}")
    assert ("USER", "autoglm") in found[last:]
    assert ("CMD", '["autoglm", "serve"]') in found[last:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_health_check_asks_the_agent(path: Path, echo_agent: Agent) -> None:
    rest = next(rest for name, rest in instructions(path) if name == "HEALTHCHECK")
    _, *arguments = json.loads(rest[rest.index("[") :])

    def check(port: int) -> int:
        command = [sys.executable, *arguments]
        environment = {"AUTOGLM_HTTP_PORT": str(port)}
        return subprocess.run(command, check=False, env=environment, capture_output=True).returncode

    assert check(echo_agent.port) == 0
    assert check(1) != 0
