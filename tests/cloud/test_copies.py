"""Several controllers on one PostgreSQL, with the same keys, are one: any of them may die."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.postgres import Postgres
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def pair(
    start_controller: Callable[..., Controller], postgres: Postgres
) -> Iterator[tuple[Controller, Controller, TcpProxy]]:
    """Two copies, and the address under which nodes find either."""
    database = {"AUTOGLM_CLOUD_DATABASE_URL": postgres.database()}
    first, second = start_controller(**database), start_controller(ready=False, **database)
    second.data_dir.mkdir(exist_ok=True)
    for name in ("ca.pem", "ca.key", "signing.key"):
        shutil.copy(first.data_dir / name, second.data_dir / name)
    second.start()
    proxy = TcpProxy(first.port, second.port)
    yield first, second, proxy
    proxy.stop()


def test_what_one_copy_is_told_reaches_nodes_at_the_other_and_one_may_die(
    pair: tuple[Controller, Controller, TcpProxy], start_node: Callable[..., Agent]
) -> None:
    first, second, proxy = pair
    start_node(first, "either", address=f"https://127.0.0.1:{proxy.port}")
    second.until("either", ready=True)
    second.configure("all", priority=4)  # the node's stream of hints is at the first one
    second.until_observed("either")
    first.kill()
    second.configure("all", priority=3)
    row = second.until_observed("either")
    assert row["reported"]["items"]["priority"]["state"] == "applied"
    assert row["generation"] == 3
