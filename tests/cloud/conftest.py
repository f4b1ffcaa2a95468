"""Real controllers, and agents that are their nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.agent import Agent
from tests.support.controller import Controller


@pytest.fixture(scope="session")
def start_controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Controller]]:
    """`start_controller(AUTOGLM_CLOUD_X="...")`: one of the test's own, on SQLite unless told."""
    started: list[Controller] = []

    def start(**settings: str) -> Controller:
        one = Controller(tmp_path_factory.mktemp("controller"), settings)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    """One that many tests share: each takes node names and labels of its own, and never sets `all`."""
    return start_controller()


@pytest.fixture(scope="session")
def start_node(
    start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Agent]:
    """`start_node(controller, "name", labels={...}, AUTOGLM_X="...")`: an agent with the echo Engine."""

    def start(
        controller: Controller, name: str, labels: dict[str, str] | None = None, **settings: str
    ) -> Agent:
        data_dir = tmp_path_factory.mktemp(name)
        controller.join(data_dir, name, **(labels or {}))
        return start_agent(data_dir=data_dir, **settings)

    return start
