"""What the shelf promises: whole Versions or none, whatever happens, and one copy of each content."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from models.errors import Damaged, NotOnShelf
from models.manifest import File, Manifest, version_of
from models.shelf import Shelf, Staged, Version
from tests.models.files import sha256


def put(shelf: Shelf, model: str, data: bytes, source: str = "") -> Version:
    shelf.work.mkdir(parents=True, exist_ok=True)
    staged = shelf.work / f"staged-{threading.get_ident()}-{time.monotonic_ns()}"
    staged.write_bytes(data)
    file = File(path="f", size=len(data), sha256=sha256(data))
    return shelf.add(model, [Staged(file, staged)], source=source)


def blobs(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in (shelf.root / "blobs").glob("*"))


def test_what_was_added_is_found_by_another_process_with_its_content(shelf: Shelf) -> None:
    added = put(shelf, "m", b"content", source="here")
    found = Shelf(shelf.root).get("m")
    assert found == added
    assert found.path.read_bytes() == b"content"
    assert found.manifest.source == "here"
    assert found.size == 7


def test_an_empty_shelf_says_so_and_is_not_made_by_looking(shelf: Shelf) -> None:
    assert shelf.versions() == []
    with pytest.raises(NotOnShelf, match="autoglm pull"):
        shelf.get("m")
    shelf.sweep()
    assert not shelf.root.exists()


def test_the_version_is_of_the_content_alone(shelf: Shelf) -> None:
    first, second, other = put(shelf, "a", b"same"), put(shelf, "b", b"same"), put(shelf, "a", b"other")
    assert first.version == second.version != other.version
    assert len(first.version) == 12
    assert blobs(shelf) == sorted(f"sha256-{sha256(data)}" for data in (b"same", b"other"))


def test_the_version_added_last_is_the_one_that_a_name_gets_whatever_the_clock_says(shelf: Shelf) -> None:
    first = put(shelf, "m", b"one")
    ahead = first.manifest.model_copy(update={"created": first.manifest.created + 10**6})
    path = shelf.root / "manifests" / "m" / f"{first.version}.json"
    path.write_bytes(ahead.to_bytes())
    second = put(shelf, "m", b"two")
    assert shelf.get("m") == second
    again = shelf.add("m", [Staged(first.manifest.files[0], None)])
    assert shelf.get("m") == again
    assert shelf.get("m", second.version) == second


def test_a_content_shared_by_two_models_goes_with_the_last_of_them(shelf: Shelf) -> None:
    put(shelf, "a", b"same")
    put(shelf, "b", b"same")
    shelf.remove("a")
    assert len(blobs(shelf)) == 1
    shelf.remove("b", shelf.get("b").version)
    assert blobs(shelf) == []
    with pytest.raises(NotOnShelf):
        shelf.remove("b")


def test_a_damaged_file_is_noticed_taken_away_and_told_as_missing(shelf: Shelf) -> None:
    version = put(shelf, "m", b"content")
    shelf.verify(version)
    version.path.write_bytes(b"c0ntent")
    with pytest.raises(Damaged, match="pull it again"):
        shelf.verify(version)
    assert shelf.versions() == []
    assert put(shelf, "m", b"content").path.read_bytes() == b"content"


def test_a_version_whose_file_is_gone_or_cut_is_not_offered_but_can_be_removed(shelf: Shelf) -> None:
    version = put(shelf, "m", b"content")
    version.path.write_bytes(b"cont")
    assert shelf.versions() == []
    shelf.remove("m")
    assert blobs(shelf) == []


def test_a_manifest_that_this_agent_cannot_read_keeps_its_files(shelf: Shelf) -> None:
    version = put(shelf, "m", b"content")
    manifest = shelf.root / "manifests" / "m" / f"{version.version}.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format":1', b'"format":2'))
    put(shelf, "other", b"else")
    assert [one.model for one in shelf.versions()] == ["other"]
    assert version.path.exists()


def test_leftovers_of_a_crash_are_swept(shelf: Shelf) -> None:
    put(shelf, "m", b"content")
    (shelf.root / "blobs" / "sha256-half").write_bytes(b"x")
    (shelf.root / "manifests" / "m" / ".x.json.1.new").write_bytes(b"{")
    shelf.sweep()
    assert len(blobs(shelf)) == 1
    assert len(list((shelf.root / "manifests" / "m").iterdir())) == 1


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a\\b", "", "a\0b"])
def test_a_manifest_with_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|character"):
        File(path=path, size=1, sha256="0" * 64)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", ".hidden", "x" * 97, "a\n", "ä"])
def test_a_model_with_a_name_that_is_no_folder_name_is_refused(shelf: Shelf, name: str) -> None:
    with pytest.raises(ValueError, match="model"):
        put(shelf, name, b"content")
    assert shelf.versions() == []


def test_a_manifest_is_canonical_and_belongs_to_its_files() -> None:
    files = (File(path="ü.gguf", size=1, sha256="0" * 64),)
    manifest = Manifest(model="m", version=version_of(files), files=files, created=1)
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data) == manifest
    assert Manifest.from_bytes(data).to_bytes() == data
    assert data.startswith(b'{"created":1,"engine":"llama","etag":"","files":[{"path":"\xc3\xbc.gguf"')
    with pytest.raises(ValueError, match="version does not belong"):
        Manifest.from_bytes(data.replace(b"0" * 64, b"1" * 64))


ADD_FOR_EVER = """
import sys
from pathlib import Path
from models.shelf import Shelf
from tests.models.test_shelf import put
shelf = Shelf(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    put(shelf, f"m{number % 3}", b"%d" % (number % 5) * 50_000)
    if number % 4 == 0:
        try:
            shelf.remove(f"m{number % 3}")
        except Exception:  # another process was faster
            pass
"""


def start_adding(shelf: Shelf) -> subprocess.Popen[bytes]:
    started = subprocess.Popen(
        [sys.executable, "-c", ADD_FOR_EVER, str(shelf.root)], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


def test_two_processes_killed_at_once_leave_whole_versions_and_after_a_sweep_nothing_else(
    shelf: Shelf,
) -> None:
    for round_ in range(2):
        first, second = start_adding(shelf), start_adding(shelf)
        time.sleep(0.05 + 0.037 * round_)
        for process in (first, second):
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        for version in shelf.versions():
            shelf.verify(version)
        shelf.sweep()
        wanted = {f"sha256-{version.manifest.files[0].sha256}" for version in shelf.versions()}
        assert set(blobs(shelf)) == wanted
    assert shelf.versions(), "nothing was added in any round: the test tests nothing"


def test_what_many_add_and_remove_at_once_is_all_there_and_nothing_else(shelf: Shelf) -> None:
    def work(number: int) -> None:
        put(shelf, f"m{number}", b"%d" % number)
        if number % 3 == 0:
            shelf.remove(f"m{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    wanted = {f"m{number}": b"%d" % number for number in range(40) if number % 3}
    assert {version.model: version.path.read_bytes() for version in shelf.versions()} == wanted
    assert len(blobs(shelf)) == len(wanted)


KILL_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from models.shelf import Shelf
from tests.models.test_shelf import blobs, put

STEPS = {"mkdir", "open", "write", "fsync", "rename", "unlink", "flock", "close", "__exit__"}

def run_until(step, act):  # the exit status of a child that kills itself before its system call number `step`
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

def check(shelf, allowed):
    found = {version.model: version.path.read_bytes() for version in shelf.versions()}
    assert found in allowed, found
    for version in shelf.versions():
        shelf.verify(version)
    shelf.sweep()
    assert len(blobs(shelf)) == len(set(found.values())), (found, blobs(shelf))
    assert not list(shelf.root.glob("manifests/*/.*"))

ACTS = {
    "add": ({}, lambda shelf: put(shelf, "m", b"new"), [{}, {"m": b"new"}]),
    "replace": ({"m": b"old"}, lambda shelf: put(shelf, "m", b"old"), [{"m": b"old"}]),
    "share": ({"n": b"x"}, lambda shelf: put(shelf, "m", b"x"), [{"n": b"x"}, {"n": b"x", "m": b"x"}]),
    "remove": ({"m": b"old"}, lambda shelf: shelf.remove("m"), [{}, {"m": b"old"}]),
}
before, act, allowed = ACTS[sys.argv[2]]
for step in range(1, 1000):
    shelf = Shelf(Path(sys.argv[1]) / str(step))
    for model, data in before.items():
        put(shelf, model, data)
    status = run_until(step, lambda: act(shelf))
    check(shelf, allowed)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
print(step)
"""


@pytest.mark.parametrize("act", ["add", "replace", "share", "remove"])
def test_killed_at_any_step_of_a_change_the_shelf_is_as_before_or_as_after(tmp_path: Path, act: str) -> None:
    command = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path), act]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10, "killed at hardly any step: the test tests nothing"


class ShelfAsADictionary(RuleBasedStateMachine):
    """A shelf and a dictionary that get the same orders hold the same."""

    MODELS = st.sampled_from(["a", "b"])
    CONTENTS = st.sampled_from([b"", b"x", b"yy"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(Path(self.folder.name))
        self.held: dict[tuple[str, str], bytes] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(model=MODELS, data=CONTENTS)
    def add(self, model: str, data: bytes) -> None:
        version = put(self.shelf, model, data)
        self.held[model, version.version] = data
        assert self.shelf.get(model) == version

    @rule(model=MODELS)
    def remove(self, model: str) -> None:
        mine = [key for key in self.held if key[0] == model]
        if mine:
            assert len(self.shelf.remove(model)) == len(mine)
        for key in mine:
            del self.held[key]

    @invariant()
    def holds_the_same(self) -> None:
        found = {(one.model, one.version): one.path.read_bytes() for one in self.shelf.versions()}
        assert found == self.held
        assert blobs(self.shelf) == sorted({f"sha256-{sha256(data)}" for data in self.held.values()})


class TestShelfAsADictionary(ShelfAsADictionary.TestCase):  # type: ignore[misc,name-defined]
    settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
