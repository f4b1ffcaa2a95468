"""An agent on which Versions are tried, and a Version to try."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.gguf_file import write_gguf
from tests.support.trials import call

SALTS = itertools.count(100)  # those below are for what a test makes itself


@pytest.fixture(scope="module")
def one_agent(start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(ECHO_STEP_SECONDS="0.001")


@pytest.fixture
def agent(one_agent: Agent) -> Iterator[Agent]:
    """One on which nothing is tried, before and after."""
    yield one_agent
    call(one_agent, "/api/models/echo/abort")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A version of echo that no agent has seen."""
    return write_gguf(tmp_path / "new.gguf", salt=next(SALTS))
