"""What is damaged on a node's disk is set aside, the last good state is served, and the loss is reported."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_sync import identity, kept, twin_file
from cloud_sync.identity import DAY, new_authority
from cloud_sync.membership import Damaged, Fleet, Membership, NotJoined
from cloud_sync.messages import Desired
from cloud_sync.twin import Twin
from tests.support.agent import Agent
from tests.support.controller import Controller

FILES = ("fleet.json", "ca.pem", "identity.pem")


def twin() -> Twin:
    heard = Twin().heard(Desired(epoch=1, generation=7, settings={"priority": 3}), watch=[])
    assert heard is not None
    return heard


def test_the_twins_file_cut_at_any_byte_is_not_believed_and_its_copy_is(tmp_path: Path) -> None:
    twin_file.write(tmp_path, twin())
    path = tmp_path / twin_file.NAME
    whole = path.read_bytes()
    copy = kept.copy_of(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert twin_file.settings_in_force(tmp_path) == {"priority": 3}
    copy.unlink()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert twin_file.settings_in_force(tmp_path) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_byte_that_flips_is_found(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "twin"
    shutil.rmtree(folder, ignore_errors=True)
    twin_file.write(folder, twin())
    path = folder / twin_file.NAME
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    assert twin_file.read(folder) == twin()
    assert len(kept.damaged(folder)) == 1
    assert twin_file.read(folder) == twin()
    assert len(kept.damaged(folder)) == 1, "it was mended"


def test_of_a_twin_that_is_damaged_twice_nothing_is_believed(tmp_path: Path) -> None:
    twin_file.write(tmp_path, twin())
    path = tmp_path / twin_file.NAME
    for one in (path, kept.copy_of(path)):
        one.write_bytes(one.read_bytes()[:-9])
    assert twin_file.read(tmp_path) == Twin()
    assert len(kept.damaged(tmp_path)) == 2


@pytest.fixture
def member(tmp_path: Path) -> Path:
    """The folder of a machine that is a node."""
    ca, key = new_authority("test", time.time()), identity.new_key()
    certificate, _ = ca.issue_node(identity.request(key, "x"), "node", time.time(), DAY)
    Membership.create(tmp_path / "cloud", Fleet(url="https://x", name="n"), ca.certificate, key + certificate)
    return tmp_path / "cloud"


@pytest.mark.parametrize("name", FILES)
def test_each_file_that_makes_a_machine_a_node_may_be_damaged_once(member: Path, name: str) -> None:
    path = member / name
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert Membership(member).fleet.name == "n"
        assert path.read_bytes() == whole
    assert len(kept.damaged(member)) == 5


@pytest.mark.parametrize("name", FILES)
def test_a_node_whose_files_are_damaged_twice_says_how_to_get_its_place_again(
    member: Path, name: str
) -> None:
    for path in (member / name, kept.copy_of(member / name)):
        path.write_bytes(b"\0" * 100)
    for _ in range(2):
        with pytest.raises(Damaged, match="--replace"):
            Membership(member)


def test_a_key_and_a_certificate_that_do_not_belong_together_are_no_identity(member: Path) -> None:
    pair = (member / "identity.pem").read_bytes()
    certificate = pair[pair.index(b"-----BEGIN CERTIFICATE") :]
    (member / "identity.pem").write_bytes(identity.new_key() + certificate)
    Membership(member)
    assert (member / "identity.pem").read_bytes() == pair


def test_a_machine_that_never_joined_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(NotJoined):
        Membership(tmp_path)


def test_an_agent_goes_on_as_it_was_and_reports_what_it_lost(
    start_controller: Callable[..., Controller], start_node: Callable[..., Agent]
) -> None:
    controller = start_controller(AUTOGLM_CLOUD_HEARTBEAT_S="1")
    controller.configure("node:hurt", max_batch_size=5)
    node = start_node(controller, "hurt", AUTOGLM_MQTT_URL="mqtt://127.0.0.1:1")
    controller.until_observed("hurt")
    node.wait("/readyz")
    node.kill()
    cloud = node.data_dir / "cloud"
    for path in (cloud / "desired.json", *(cloud / name for name in FILES)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (node.data_dir / "state.db").write_bytes(b"\0" * 5000)
    node.start()
    assert node.chat("still here").status_code == 200
    assert node.status()["settings"]["max_batch_size"] == 5

    def damaged() -> set[str]:
        told = controller.nodes()["hurt"]["reported"].get("damaged", [])
        return {name.partition(".damaged")[0] for name in told}

    until = time.monotonic() + 60
    while damaged() != {"desired.json", *FILES, "state.db"}:
        assert time.monotonic() < until, json.dumps(controller.nodes()["hurt"])
        time.sleep(0.1)

    node.kill()
    for path in (cloud / "identity.pem", kept.copy_of(cloud / "identity.pem")):
        path.write_bytes(b"nothing")
    node.start()
    assert node.chat("alone now").status_code == 200
    while "--replace" not in node.status()["cloud"]["link"]:
        assert time.monotonic() < until + 60
        time.sleep(0.1)
    token = controller.run("token", "--replace", "hurt").stdout.strip()
    assert controller.try_to_join(node.data_dir, "hurt", token, "--again").returncode == 0
    controller.configure("node:hurt", heartbeat_s=1.5)
    controller.until_observed("hurt")
