"""A fleet of more nodes than one answer has."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.controller import Controller

MADE = """
INSERT INTO nodes (id, name, state, labels, joined_at, generation, desired, revision, address, boot,
    former_boot, number, former_number, observed_generation, backlog, reported, stream)
WITH RECURSIVE counted(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM counted WHERE n < 2499)
SELECT n, 'node-' || n, 'active', '{}', 0, 1, '{}', 1, '', '', '', 0, 0, 0, 0, '{}', '' FROM counted
"""


async def test_the_command_lists_every_node(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    await controller.execute(MADE)
    rows = json.loads(controller.run("nodes", "--json").stdout)
    assert [row["name"] for row in rows] == [f"node-{n}" for n in range(1000, 2500)]
