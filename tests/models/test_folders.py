"""What a model of several files promises: all of it comes, nothing from elsewhere; whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models import sources
from models.errors import BadFile, BadSource, Damaged, ModelError, NotThere, WrongDigest
from models.manifest import File, Manifest
from models.shelf import Shelf, Version
from models.sources import known
from tests.models.hub import Hub
from tests.models.site import Served, Site
from tests.support.gguf_file import write_gguf
from tests.support.onnx_file import FLOAT, INT64, external_tensor, onnx_bytes

IDS = ("input_ids", INT64, (None, None))
EXTERNAL = onnx_bytes(initializers=[external_tensor("w", "weights/w.bin")])
ENCODER = onnx_bytes(
    inputs=(IDS, ("attention_mask", INT64, (None, None))),
    outputs=(("last_hidden_state", FLOAT, (None, None, 8)),),
)
MODULES = [
    {"idx": at, "name": str(at), "path": "", "type": f"sentence_transformers.models.{kind}"}
    for at, kind in enumerate(("Transformer", "Pooling", "Normalize"))
]
SENTENCES = {
    "onnx/model.onnx": ENCODER,
    "README.md": b"# not brought",
    "model.safetensors": b"not brought either",
    "modules.json": json.dumps(MODULES).encode(),
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}',
    "sentence_bert_config.json": b'{"max_seq_length": 256}',
    "config.json": b'{"hidden_size": 8, "max_position_embeddings": 512, "pad_token_id": 1}',
    "tokenizer.json": b"{}",
}


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


async def pull(source: Path | str, shelf: Shelf) -> Version:
    return await sources.pull(str(source), shelf, report=lambda _: None)


def shown(version: Version) -> dict[str, bytes]:
    """What an Engine finds in the Version's folder."""
    paths = [path for path in version.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(version.folder)): path.read_bytes() for path in paths}


async def test_a_folder_brings_its_model_and_what_belongs_to_it(tmp_path: Path, shelf: Shelf) -> None:
    version = await pull(lay(tmp_path / "My Encoder", SENTENCES), shelf)
    assert version.model == "My-Encoder"
    assert version.path == version.folder / "onnx/model.onnx"
    brought = {name: data for name, data in SENTENCES.items() if not name.endswith((".md", "tensors"))}
    assert shown(version) == brought
    assert Manifest.from_bytes(version.manifest.to_bytes()) == version.manifest


async def test_external_data_lies_where_the_model_looks_for_it(tmp_path: Path, shelf: Shelf) -> None:
    version = await pull(lay(tmp_path / "m", {"x.onnx": EXTERNAL, "weights/w.bin": b"w"}), shelf)
    assert shown(version) == {"x.onnx": EXTERNAL, "weights/w.bin": b"w"}
    assert not any(path.is_symlink() for path in version.folder.rglob("*"))


async def test_a_folder_with_one_file_that_counts_is_as_that_file(tmp_path: Path, shelf: Shelf) -> None:
    folder = lay(tmp_path / "one", {"notes.txt": b"-"})
    version = await pull(write_gguf(folder / "m.gguf").parent, shelf)
    assert (version.model, version.manifest.engine) == ("one", "llama")
    assert version.path.parent.name == "blobs"


def symbolic(root: Path) -> None:
    lay(root.parent, {"elsewhere.bin": b"secret"})
    (root / "weights").mkdir()
    (root / "weights/w.bin").symlink_to(root.parent / "elsewhere.bin")


def behind_a_link(root: Path) -> None:
    lay(root.parent, {"elsewhere/w.bin": b"secret"})
    (root / "weights").symlink_to(root.parent / "elsewhere")


def hard(root: Path) -> None:
    lay(root.parent, {"elsewhere.bin": b"secret"})
    (root / "weights").mkdir()
    (root / "weights/w.bin").hardlink_to(root.parent / "elsewhere.bin")


def a_pipe(root: Path) -> None:
    (root / "weights").mkdir()
    os.mkfifo(root / "weights/w.bin")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _: None, "'weights/w.bin' belongs to it, and is not there"),
        (symbolic, "symbolic link"),
        (behind_a_link, "symbolic link"),
        (hard, "hard link"),
        (a_pipe, "not a regular file"),
    ],
    ids=["missing", "symlink", "behind a symlink", "hard link", "pipe"],
)
async def test_external_data_that_is_no_plain_file_of_the_folder_is_refused(
    tmp_path: Path, shelf: Shelf, spoil: Callable[[Path], None], says: str
) -> None:
    root = lay(tmp_path / "m", {"model.onnx": EXTERNAL})
    spoil(root)
    with pytest.raises(BadFile, match=says):
        await pull(root, shelf)
    assert shelf.versions() == []


@pytest.mark.parametrize("where", ["../w.bin", "/etc/passwd", "a/../../w.bin", "..\\w.bin", ""])
async def test_external_data_that_escapes_is_refused(tmp_path: Path, shelf: Shelf, where: str) -> None:
    model = onnx_bytes(initializers=[external_tensor("w", where)])
    with pytest.raises(BadFile, match="relative, and without"):
        await pull(lay(tmp_path / "m", {"model.onnx": model, "w.bin": b"w"}), shelf)


async def test_a_file_alone_whose_data_lies_elsewhere_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(BadFile, match="pull the whole folder"):
        await pull(lay(tmp_path, {"x.onnx": EXTERNAL, "weights/w.bin": b"w"}) / "x.onnx", shelf)


@pytest.mark.parametrize("files", [{}, {"a.onnx": ENCODER, "b.onnx": ENCODER}])
async def test_a_folder_without_one_model_is_refused(
    tmp_path: Path, shelf: Shelf, files: dict[str, bytes]
) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(BadFile, match=r"must have a model\.onnx, or one"):
        await pull(lay(tmp_path / "m", files), shelf)


async def test_the_same_folder_is_brought_once_and_a_changed_one_again(tmp_path: Path, shelf: Shelf) -> None:
    root = lay(tmp_path / "m", SENTENCES)
    first = await pull(root, shelf)
    assert await pull(root, shelf) == first == known(str(root), shelf)
    (root / "1_Pooling/config.json").write_bytes(b'{"pooling_mode_mean_tokens": true}')
    assert known(str(root), shelf) is None
    second = await pull(root, shelf)
    assert second.version != first.version
    assert len({first.manifest.files[0].sha256, second.manifest.files[0].sha256}) == 1


async def test_the_names_are_part_of_the_version(tmp_path: Path, shelf: Shelf) -> None:
    for name in ("w.bin", "v.bin"):
        model = {"model.onnx": onnx_bytes(initializers=[external_tensor("w", name)]), name: b"w"}
        same = {"model.onnx": EXTERNAL, "weights/w.bin": b"w", "config.json": b"{}"}
        await pull(lay(tmp_path / name, model), shelf)
        lay(tmp_path / f"same-{name}", same)
    first = await pull(tmp_path / "same-w.bin", shelf)
    (tmp_path / "same-v.bin/config.json").rename(tmp_path / "same-v.bin/tokenizer.json")
    assert (await pull(tmp_path / "same-v.bin", shelf)).version != first.version


async def test_the_folder_is_made_anew_where_it_is_missing_or_wrong(tmp_path: Path, shelf: Shelf) -> None:
    version = await pull(lay(tmp_path / "m", SENTENCES), shelf)
    whole = shown(version)
    for spoil in (
        lambda: shutil.rmtree(version.folder),
        lambda: (version.folder / "config.json").unlink(),
        lambda: lay(tmp_path, {"evil": b"x"}).joinpath("evil").replace(version.folder / "tokenizer.json"),
    ):
        spoil()
        assert shown(Shelf(shelf.root).get("m")) == whole


async def test_a_removed_version_leaves_no_folder(tmp_path: Path, shelf: Shelf) -> None:
    version = await pull(lay(tmp_path / "m", SENTENCES), shelf)
    shelf.remove("m")
    assert not version.folder.exists()
    assert not list((shelf.root / "blobs").glob("*"))


async def test_a_damaged_file_is_found_and_replaced_by_a_pull(tmp_path: Path, shelf: Shelf) -> None:
    version = await pull(lay(tmp_path / "m", SENTENCES), shelf)
    (version.folder / "tokenizer.json").write_bytes(b"[]")  # the blob itself
    with pytest.raises(Damaged, match=r"tokenizer\.json"):
        shelf.verify(version)
    assert (await pull(tmp_path / "m", shelf)).version == version.version
    shelf.verify(shelf.get("m"))
    assert (version.folder / "tokenizer.json").read_bytes() == b"{}"


KILL_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from models.manifest import File
from models.shelf import Shelf, Staged
from tests.models.files import sha256

STEPS = {"mkdir", "open", "write", "fsync", "rename", "replace", "link", "unlink", "rmdir", "flock", "close"}
FILES = {"m.onnx": b"model", "data/w.bin": b"weights"}

def put(shelf):
    shelf.work.mkdir(parents=True, exist_ok=True)
    staged = []
    for at, (name, data) in enumerate(FILES.items()):
        path = shelf.work / f"{os.getpid()}-{at}"
        path.write_bytes(data)
        staged.append(Staged(File(path=name, size=len(data), sha256=sha256(data)), path))
    return shelf.add("m", staged, engine="onnx")

def run_until(step, act):
    pid = os.fork()
    if pid == 0:
        left = step
        def count(frame, event, call):
            nonlocal left
            if event == "c_call" and call.__name__ in STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        act()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

act = {"add": put, "remove": lambda shelf: shelf.remove("m")}[sys.argv[2]]
for step in range(1, 1000):
    shelf = Shelf(Path(sys.argv[1]) / str(step))
    if act is not put:
        put(shelf)
    status = run_until(step, lambda: act(shelf))
    found = shelf.versions()
    for one in found:
        shelf.verify(one)
        assert {name: (one.folder / name).read_bytes() for name in FILES} == FILES
    shelf.sweep()
    folders, blobs = (sorted((shelf.root / name).glob("*")) for name in ("folders", "blobs"))
    assert (len(folders), len(blobs)) == (len(found), 2 * len(found)), (folders, blobs, found)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
print(step)
"""


@pytest.mark.parametrize("act", ["add", "remove"])
def test_killed_at_any_step_there_is_the_whole_version_with_its_folder_or_none(
    tmp_path: Path, act: str
) -> None:
    command = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path), act]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10, "killed at hardly any step: the test tests nothing"


# From the hub.


@pytest.fixture
def hub(site: Site, other_site: Site, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    started = Hub(site, other_site)
    started.add("owner/Encoder", SENTENCES)
    split = onnx_bytes(initializers=[external_tensor("w", "model.onnx_data")])
    started.add("owner/Split", {"onnx/model.onnx": split, "onnx/model.onnx_data": b"weights"})
    started.add("owner/Lost", {"onnx/model.onnx": split, "model.onnx_data": b"elsewhere"})
    started.add("owner/Alone", {"model.onnx": ENCODER, "README.md": b"-"})
    started.add("owner/Many", {"a.onnx": ENCODER, "b.onnx": split})
    return started


async def test_a_repository_without_gguf_brings_its_onnx_model_and_what_belongs_to_it(
    hub: Hub, shelf: Shelf
) -> None:
    version = await pull("owner/Encoder", shelf)
    assert (version.model, version.manifest.engine) == ("Encoder", "onnx")
    assert shown(version).keys() == SENTENCES.keys() - {"README.md", "model.safetensors"}


async def test_a_repository_brings_the_data_that_its_model_names(hub: Hub, shelf: Shelf) -> None:
    assert shown(await pull("owner/Split", shelf))["onnx/model.onnx_data"] == b"weights"
    with pytest.raises(BadFile, match=r"'onnx/model\.onnx_data' belongs to it"):
        await pull("owner/Lost", shelf)


async def test_of_several_onnx_models_one_is_to_be_chosen(hub: Hub, shelf: Shelf) -> None:
    with pytest.raises(BadSource, match=r"choose one, as owner/Many:a\.onnx"):
        await pull("owner/Many", shelf)
    assert (await pull("owner/Many:a.onnx", shelf)).path.read_bytes() == ENCODER
    with pytest.raises(NotThere, match=r"it has a\.onnx, b\.onnx"):
        await pull("owner/Many:c.onnx", shelf)


async def test_a_repository_is_fetched_again_only_where_it_has_changed(hub: Hub, shelf: Shelf) -> None:
    first = await pull("owner/Encoder", shelf)
    seen = len(hub.network.seen)
    assert await pull("owner/Encoder", shelf) == first
    assert len(hub.network.seen) == seen
    hub.add("owner/Encoder", {**SENTENCES, "sentence_bert_config.json": b'{"max_seq_length": 128}'})
    assert (await pull("owner/Encoder", shelf)).version != first.version


async def test_a_model_that_stands_alone_in_its_repository_is_fetched_again_only_where_it_has_changed(
    hub: Hub, shelf: Shelf
) -> None:
    first = await pull("owner/Alone", shelf)
    seen = len(hub.network.seen)
    assert await pull("owner/Alone", shelf) == first
    assert len(hub.network.seen) == seen
    hub.add("owner/Alone", {"model.onnx": EXTERNAL.replace(b"weights/w", b"weights/v"), "weights/v.bin": b""})
    assert (await pull("owner/Alone", shelf)).version != first.version


async def test_a_folder_that_lost_what_belonged_to_its_model_has_changed(
    tmp_path: Path, shelf: Shelf
) -> None:
    root = lay(tmp_path / "m", {"model.onnx": ENCODER, "config.json": b"{}"})
    first = await pull(root, shelf)
    (root / "config.json").unlink()
    assert known(str(root), shelf) is None
    assert len((await pull(root, shelf)).manifest.files) == 1 < len(first.manifest.files)


async def test_a_small_file_is_checked_by_the_digest_that_the_hub_lists(hub: Hub, shelf: Shelf) -> None:
    path = "/owner/Encoder/resolve/main/config.json"
    hub.site.served[path] = Served(SENTENCES["config.json"].replace(b"8", b"9"))
    with pytest.raises(WrongDigest, match="not the one that the hub lists"):
        await pull("owner/Encoder", shelf)


async def test_a_version_whose_folder_cannot_be_made_is_none_and_hides_no_other(
    tmp_path: Path, shelf: Shelf
) -> None:
    plain = await pull(write_gguf(tmp_path / "plain.gguf"), shelf)
    (shelf.root / "folders").write_bytes(b"in the way")
    with pytest.raises(ModelError):
        await pull(lay(tmp_path / "m", {"x.onnx": EXTERNAL, "weights/w.bin": b"w"}), shelf)
    assert shelf.versions() == [plain]
    (shelf.root / "folders").unlink()
    whole = await pull(tmp_path / "m", shelf)
    assert len(shelf.versions()) == 2
    shutil.rmtree(shelf.root / "folders")
    (shelf.root / "folders").write_bytes(b"in the way")
    assert shelf.versions() == [plain]
    (shelf.root / "folders").unlink()
    assert shelf.get("m") == whole


def test_a_name_that_no_file_system_takes_is_no_path() -> None:
    File(path="ä" * 127, size=0, sha256="0" * 64)
    with pytest.raises(ValueError, match="at most 255 bytes"):
        File(path="weights/" + "ä" * 128, size=0, sha256="0" * 64)
