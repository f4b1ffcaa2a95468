"""Group commit: what comes together is one transaction, and each has its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cloud_sync.controller.gather import MOST, Gather


class Groups:
    """Commits numbers; a negative one cannot be kept."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.away = False

    async def commit(self, group: Sequence[int]) -> list[int | Exception]:
        self.sizes.append(len(group))
        await asyncio.sleep(0)
        if self.away:
            raise OSError("the database is away")
        if any(one < 0 for one in group):
            raise ValueError("a negative one")
        return [KeyError(one) if one == 7 else one * 2 for one in group]


async def test_what_comes_together_is_one_transaction_with_an_answer_for_each() -> None:
    groups = Groups()
    gather = Gather(groups.commit)
    answers = await asyncio.gather(*map(gather.add, range(20)), return_exceptions=True)
    assert groups.sizes == [20]
    assert [one for index, one in enumerate(answers) if index != 7] == [
        2 * one for one in range(20) if one != 7
    ]
    assert isinstance(answers[7], KeyError)
    assert await gather.add(1) == 2


async def test_one_that_cannot_be_kept_spoils_no_other() -> None:
    gather = Gather(Groups().commit)
    answers = await asyncio.gather(*map(gather.add, (1, -1, 2)), return_exceptions=True)
    assert [type(one) for one in answers] == [int, ValueError, int]


async def test_a_database_that_is_away_is_asked_once_for_all() -> None:
    groups = Groups()
    groups.away = True
    answers = await asyncio.gather(*map(Gather(groups.commit).add, range(5)), return_exceptions=True)
    assert {type(one) for one in answers} == {OSError}
    assert groups.sizes == [5]


async def test_a_group_has_a_bound_and_who_goes_away_is_skipped() -> None:
    groups = Groups()
    gather = Gather(groups.commit)
    tasks = [asyncio.create_task(gather.add(1)) for _ in range(MOST + 5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert groups.sizes == [MOST, 5]
    assert answers[1:] == [2] * (MOST + 4)
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
