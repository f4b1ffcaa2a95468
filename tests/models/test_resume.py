"""What becomes of a download that is cancelled, killed, tampered with, or asked for twice at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from models import sources
from models.shelf import Shelf, Version
from models.sources import Progress
from tests.models.files import MIB, model_of, sha256
from tests.models.site import Served, Site, until

DATA = model_of(3 * MIB)


async def pull(source: str, shelf: Shelf) -> Version:
    return await sources.pull(source, shelf, report=lambda _: None)


async def test_the_same_pull_twice_at_once_downloads_once(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, hold_at=MIB)
    pinned = f"{site.url}/m.gguf#sha256={sha256(DATA)}"
    waited: list[Progress] = []
    async with asyncio.TaskGroup() as group:
        first = group.create_task(pull(pinned, shelf))
        await until(lambda: site.seen)
        second = group.create_task(sources.pull(pinned, shelf, name="other", report=waited.append))
        await until(lambda: any(row.phase == "waiting" for row in waited))
        site.served["/m.gguf"].go.set()
    assert first.result().path == second.result().path
    assert len(site.seen) == 1
    assert list(shelf.work.iterdir()) == []


async def test_a_cancelled_pull_is_resumed_by_the_next(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, hold_at=MIB)
    task = asyncio.create_task(pull(f"{site.url}/m.gguf", shelf))
    await until(lambda: list(shelf.work.glob("*/file.part")) and site.seen)
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    site.served["/m.gguf"].go.set()
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA
    assert site.seen[1].headers["range"] == f"bytes={MIB}-"


PULL = """
import asyncio, sys
from pathlib import Path
from models.shelf import Shelf
from models.sources import pull
asyncio.run(pull(sys.argv[1], Shelf(Path(sys.argv[2])), report=lambda row: print(row, flush=True)))
"""


def start_pull(url: str, shelf: Shelf) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, url, str(shelf.root)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


async def test_a_pull_killed_in_the_middle_is_resumed_from_what_is_surely_on_disk(
    site: Site, shelf: Shelf
) -> None:
    data = model_of(24 * MIB)
    site.served["/m.gguf"] = Served(data, hold_at=20 * MIB)
    process = start_pull(f"{site.url}/m.gguf", shelf)
    await asyncio.to_thread(_wait_for_journal, shelf, 16 * MIB)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    part = next(shelf.work.glob("*/file.part"))
    with part.open("r+b") as file:  # as a power cut may leave it: the end, which was not synced, is zeros
        file.seek(19 * MIB)
        file.write(bytes(MIB))
    site.served["/m.gguf"].hold_at = None
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == data
    start = int(site.seen[1].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 16 * MIB <= start <= 19 * MIB
    assert site.seen[1].status == 206


def _wait_for_journal(shelf: Shelf, synced: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for journal in shelf.work.glob("*/journal.json"):
            found = journal.read_text().partition('"synced": ')[2].rstrip("}")
            if found.isdecimal() and int(found) >= synced:
                return
        time.sleep(0.02)
    raise AssertionError("the download does not come along")


async def test_a_part_that_was_tampered_with_is_noticed_and_fetched_anew(site: Site, shelf: Shelf) -> None:
    pinned = f"{site.url}/m.gguf#sha256={sha256(DATA)}"
    site.served["/m.gguf"] = Served(DATA, cuts=[MIB], statuses=[])
    site.served["/m.gguf"].hold_at = MIB
    task = asyncio.create_task(pull(pinned, shelf))
    await until(lambda: any(path.stat().st_size >= MIB for path in shelf.work.glob("*/file.part")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    part = next(shelf.work.glob("*/file.part"))
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"tampered")
    site.served["/m.gguf"] = Served(DATA)
    assert (await pull(pinned, shelf)).path.read_bytes() == DATA


def test_two_processes_that_pull_the_same_at_once_both_have_it(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA)
    url = f"{site.url}/m.gguf#sha256={sha256(DATA)}"
    both = [start_pull(url, shelf), start_pull(url, shelf)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert len(site.seen) == 1
    assert shelf.get("m").path.read_bytes() == DATA
