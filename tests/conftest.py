"""Real agents for all tests: with the echo Engine, with the real model, and more as a test starts them."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.shelf import Shelf
from models.sources import pull
from tests.support.agent import Agent, free_port
from tests.support.disk import mounted
from tests.support.gguf_file import write_gguf
from tests.support.oidc import Issuer

CACHE = Path(__file__).parent.parent / ".cache"
DEFAULT = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real SmolLM2-135M-Instruct Q4_1, pulled once as a user would."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        version = asyncio.run(pull(DEFAULT, Shelf(CACHE / "shelf"), report=lambda _: None))
        path = CACHE / f"{DEFAULT}.gguf"
        if not path.exists():
            path.hardlink_to(version.path)
    return path


def pulled_once(name: str) -> Path:
    """The file of a catalog's model, on a shelf that all test runs share."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return asyncio.run(pull(name, Shelf(CACHE / "shelf"), report=lambda _: None)).path


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """The real Gemma 3 270M Q4_K_M, of which most layers look back 512 tokens: 240 MB the first time."""
    return pulled_once("gemma3-270m")


@pytest.fixture(scope="session")
def magika_path() -> Path:
    """The real magika model, an ONNX file: int32 [N, 2048] to float32 [N, 214]."""
    return pulled_once("magika")


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF that only the echo Engine can serve; its name is "echo"."""
    return write_gguf(tmp_path_factory.mktemp("model") / "echo.gguf")


@pytest.fixture(scope="session")
def agents() -> Iterator[list[tuple[Agent, bool]]]:
    """All that run, and whether many modules share them."""
    started: list[tuple[Agent, bool]] = []
    yield started
    stop(one for one, _ in started)


@pytest.fixture(scope="module", autouse=True)
def only_for_this_module(agents: list[tuple[Agent, bool]]) -> Iterator[None]:
    """Agents that no other module has a use for cost the others nothing."""
    yield
    stop(one for one, shared in agents if not shared)
    agents[:] = [(one, shared) for one, shared in agents if shared]


def stop(agents: Iterable[Agent]) -> None:
    with ThreadPoolExecutor(16) as pool:  # each drains in its own time
        list(pool.map(Agent.stop, agents))


@pytest.fixture(scope="session")
def start_agent(
    agents: list[tuple[Agent, bool]], tmp_path_factory: pytest.TempPathFactory, echo_model: Path
) -> Callable[..., Agent]:
    """`start_agent(AUTOGLM_X="...", ready=True)`: an agent of the test's own; the echo Engine unless told.

    It ends with the module, unless it is `shared`.
    """

    def start(
        *,
        ready: bool = True,
        shared: bool = False,
        data_dir: Path | None = None,
        cwd: Path | None = None,
        port: int = 0,
        **settings: str,
    ) -> Agent:
        environment = {"AUTOGLM_ENGINE": "echo", "AUTOGLM_MODEL": str(echo_model), **settings}
        folder = data_dir or tmp_path_factory.mktemp("agent")
        agent = Agent(folder, environment, port or free_port(), cwd=cwd)
        agents.append((agent, shared))
        return agent.start(ready=ready)

    return start


@pytest.fixture(scope="session")
def echo_agent(start_agent: Callable[..., Agent]) -> Agent:
    """An agent whose model answers with the last user message."""
    return start_agent(shared=True)


@pytest.fixture(scope="session")
def agent(start_agent: Callable[..., Agent], model_path: Path) -> Agent:
    """An agent that serves the real model, with 8 slots of 2,048 tokens."""
    return start_agent(
        shared=True,
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(model_path),
        AUTOGLM_KV_TYPE="q8_0",  # one candidate: no trial of others
        AUTOGLM_MAX_BATCH_SIZE="8",
        AUTOGLM_CONTEXT="2048",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 MB."""
    with mounted(tmp_path / "disk", megabytes=80) as disk:
        yield disk


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An OpenID Connect issuer of the module's own: its tests may stop it, and start it again."""
    one = Issuer()
    yield one
    one.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, the ends of the logs of the agents that the test used."""
    report = yield
    if report.failed:
        for name, used in getattr(item, "funcargs", {}).items():
            if isinstance(used, Agent):
                report.sections.append((f"log of {name}", used.log[-4000:]))
    return report
