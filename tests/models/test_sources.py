"""What a pull of a file, of a catalog name, or of what is neither promises."""

# ruff: noqa: ASYNC240  (small files, and nothing else runs on the loop)

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import sources
from models.errors import BadSource, GGUFError, ModelError, NoRoom
from models.gguf import read_header
from models.shelf import Shelf, Version
from models.sources import known
from models.sources.catalog import catalog
from tests.models.files import MIB, model_of, sha256
from tests.models.site import Served, Site

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


async def test_a_file_pulled_under_two_names_is_known_by_its_own(file: Path, shelf: Shelf) -> None:
    own = await pull(file, shelf)
    await pull(file, shelf, name="Another")
    assert known(str(file), shelf) == own


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
        assert entry.file.endswith((".gguf", ".onnx"))
    for repository, instead in catalog().instead.items():
        assert repository.count("/") == 1
        assert instead.endswith(".gguf")
