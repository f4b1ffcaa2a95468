"""Pulls as a node makes them: with progress for whoever asked, and the first one again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from models.address import without_secrets
from models.errors import ModelError, Unreachable
from models.shelf import Shelf, Version
from models.sources import Progress, known, pull

log = structlog.get_logger()

RETRY_S = 30.0  # between tries to get the first model

Report = Callable[[Progress], None]


def started(
    source: str, name: str | None, shelf: Shelf
) -> tuple[asyncio.Task[Version], asyncio.Queue[Progress | None]]:
    """A pull that runs, and how far it is; None at its end."""
    rows: asyncio.Queue[Progress | None] = asyncio.Queue()

    async def work() -> Version:
        try:
            return await pull(source, shelf, name=name, report=rows.put_nowait)
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
