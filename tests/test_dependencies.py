"""What a fresh installation brings is all that the agent and the controller need."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
IMPORTS = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))  # None: to import it is a ModuleNotFoundError
import agent.cli.app, agent.cli.serve, agent.node, cloud_sync.controller.serve
"""


def test_agent_and_controller_start_with_what_the_project_asks_for_and_nothing_else() -> None:
    asked = _asked_for()
    owners: Mapping[str, list[str]] = packages_distributions()
    others = [name for name, by in owners.items() if asked.isdisjoint(map(canonicalize_name, by))]
    assert "pytest" in others

    done = subprocess.run([sys.executable, "-c", IMPORTS, *others], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def _asked_for() -> set[str]:
    """What pyproject.toml names without the extras, and what that needs in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting = {"open-autoglm-edge"}, list(_needs(project["dependencies"], frozenset()))
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        steps = set(_needs(requires(name) or (), extras)) - seen
        seen |= steps
        waiting += steps
    return found


def _needs(texts: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for need in map(Requirement, texts):
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(need.name), frozenset(need.extras)
