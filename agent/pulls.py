"""Pulls as a node makes them: with progress for whoever asked, and the first one again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from agent.config import Settings
from agent.quantize import Decision, better, check
from models.address import without_secrets
from models.errors import ModelError, Unreachable
from models.shelf import Shelf, Version
from models.sources import Progress, known, pull

log = structlog.get_logger()

RETRY_S = 30.0  # between tries to get the first model

Report = Callable[[Progress], None]


async def bring(
    source: str, name: str | None, shelf: Shelf, report: Report, quantize: Settings | None
) -> tuple[Version, Decision | None]:
    """A pull. With `quantize`, the node's settings: the better of what came and its int8 copy. ModelError."""
    if quantize is None:
        return await pull(source, shelf, name=name, report=report), None
    check(source)
    return await better(await pull(source, shelf, name=name, report=report), shelf, quantize, report)


def started(
    source: str, name: str | None, shelf: Shelf, quantize: Settings | None
) -> tuple[asyncio.Task[tuple[Version, Decision | None]], asyncio.Queue[Progress | None]]:
    """`bring` that runs, and how far it is; None at its end."""
    rows: asyncio.Queue[Progress | None] = asyncio.Queue()

    async def work() -> tuple[Version, Decision | None]:
        try:
            return await bring(source, name, shelf, rows.put_nowait, quantize)
        finally:
            rows.put_nowait(None)

    return asyncio.create_task(work()), rows


async def first(
    source: str,
    shelf: Shelf,
    waits: Callable[[str, bool], None],
    helped: Callable[[], bool],
    report: Report | None,
) -> Version | None:
    """The Model that the settings name: from the shelf, else pulled, however long that takes.

    None: it cannot be had, or somebody has `helped` meanwhile by another one. `waits` is told why there is
    none yet, and whether that may last.
    """
    shown = without_secrets(source)
    while not helped():
        try:
            if version := await asyncio.to_thread(known, source, shelf):
                return version
            waits(f"the model {shown} is being pulled", False)
            return await pull(source, shelf, report=report or (lambda _: None))
        except Unreachable as error:
            log.warning("cannot get the model yet", error=str(error), retry_in_s=RETRY_S)
            waits(f"the model cannot be fetched: {error}", True)
        except (ModelError, OSError) as error:
            log.error("no model to serve", error=str(error))
            waits(f"no model to serve: {error}", True)
            return None
        await asyncio.sleep(RETRY_S)
    return None
