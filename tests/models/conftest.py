from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.shelf import Shelf
from tests.models.site import Site


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models")


@pytest.fixture
def site() -> Iterator[Site]:
    started = Site()
    yield started
    started.stop()


@pytest.fixture
def other_site() -> Iterator[Site]:
    """Another origin, as a hub's content network is."""
    started = Site()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
