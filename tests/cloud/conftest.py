"""Real controllers, and agents that are their nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, free_port
from tests.support.controller import Controller
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def start_controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Controller]]:
    """`start_controller(AUTOGLM_CLOUD_X="...")`: one of the test's own, on SQLite unless told."""
    started: list[Controller] = []

    def start(*, ready: bool = True, **settings: str) -> Controller:
        one = Controller(tmp_path_factory.mktemp("controller"), settings)
        started.append(one)
        return one.start() if ready else one

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    one = Postgres()
    yield one
    one.stop()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Callable[[], dict[str, str]]:
    """The setting of a new database: tests that use it run on both kinds."""
    if request.param == "sqlite":
        return dict
    postgres: Postgres = request.getfixturevalue("postgres")
    return lambda: {"AUTOGLM_CLOUD_DATABASE_URL": postgres.database()}


@pytest.fixture(scope="session")
def controller(
    start_controller: Callable[..., Controller], database: Callable[[], dict[str, str]]
) -> Controller:
    """One that many tests share: each takes node names and labels of its own, and never sets `all`."""
    return start_controller(**database())


@pytest.fixture(scope="session")
def start_node(
    start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Agent]:
    """`start_node(controller, "name", labels={...}, AUTOGLM_X="...")`: an agent with the echo Engine."""

    def start(
        controller: Controller,
        name: str,
        labels: dict[str, str] | None = None,
        address: str = "",
        port: int = 0,
        **settings: str,
    ) -> Agent:
        data_dir = tmp_path_factory.mktemp(name)
        token = controller.token(**(labels or {}))
        joined = controller.try_to_join(data_dir, name, token, address=address)
        assert joined.returncode == 0, joined.stderr
        return start_agent(data_dir=data_dir, port=port, **settings)

    return start


@pytest.fixture(scope="session")
def start_told_node(
    start_node: Callable[..., Agent], echo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Agent]:
    """As `start_node`, with its model and port in a file: a variable would be over what the cloud says."""

    def start(controller: Controller, name: str, **settings: str) -> Agent:
        file = tmp_path_factory.mktemp("etc") / "agent.toml"
        port = free_port()
        file.write_text(f'model = "{echo_model}"\nhttp_port = {port}\n')
        own = dict.fromkeys(("AUTOGLM_MODEL", "AUTOGLM_LOG_LEVEL", "AUTOGLM_HTTP_PORT"), "")
        return start_node(controller, name, port=port, **{"AUTOGLM_CONFIG": str(file), **own, **settings})

    return start
