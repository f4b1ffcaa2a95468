"""What can be set from the cloud, how it is typed, and what a node of another release makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.cloud import pairs
from agent.cli.errors import UsageError
from agent.config import Settings
from agent.model_settings import ModelSettings
from cloud_sync.controller.skew import skew
from cloud_sync.settings import BadSettings, DesiredModel, DesiredSettings, changed, checked, sorted_out
from tests.support.controller import Controller


@pytest.fixture(scope="module")
def controller(start_controller: Callable[..., Controller]) -> Controller:
    return start_controller()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warp": 9}, "warp: there is no such setting"),
        ({"models": {"echo": {"warp": 9}}}, "models.echo.warp: there is no such setting"),
        ({"models": {"a/b": {}}}, "models.a/b"),
        (
            {"models": {"echo": {"weights": {"a": 60, "b": 50}}}},
            "models.echo: the weights are together at most",
        ),
        ({"models": {"echo": {"weights": {"a": 101}}}}, "models.echo.weights.a: Input should be less than"),
        ({"max_batch_size": 0}, "max_batch_size: Input should be greater than or equal to 1"),
        ({"keep_alive": "soon"}, 'keep_alive: must be seconds, or a duration such as "5m"'),
        ({"mqtt_url": "http://broker"}, "mqtt_url: must be mqtt://host:port"),
        ({"mqtt_url": "mqtt://me:secret/x@broker"}, "mqtt_url: has no port from 1 to 65535"),
        ({"cloud_url": "http://controller"}, "cloud_url: must be https://host:port"),
        ({"cloud_proxy": "socks5://proxy"}, "cloud_proxy: must be http://host:port"),
        ({"anonymous_limit": {"requests": 5}}, "anonymous_limit.requests: there is no such setting"),
        ({"log_level": "loud"}, "log_level: Input should be"),
        ({"data_dir": "/tmp"}, "data_dir: there is no such setting"),
        ([], "the document: "),
    ],
)
def test_what_is_wrong_is_told_by_its_path(settings: Any, says: str) -> None:
    with pytest.raises(BadSettings) as told:
        checked(settings)
    assert str(told.value).startswith(says)
    assert "secret" not in str(told.value)


def test_all_that_can_be_set_is_a_setting_of_the_agent() -> None:
    assert DesiredSettings.model_fields.keys() - Settings.model_fields.keys() == {"heartbeat_s"}
    assert DesiredModel.model_fields.keys() == ModelSettings.model_fields.keys()


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_models = st.dictionaries(
    st.text(max_size=4), st.dictionaries(st.sampled_from([*DesiredModel.model_fields, "new"]), _json) | _json
)
_documents = st.fixed_dictionaries(
    {},
    optional={name: _json for name in [*DesiredSettings.model_fields, "new"]} | {"models": _models | _json},
)


@given(_documents)
def test_of_any_document_a_node_takes_what_it_can_and_tells_why_of_the_rest(document: dict[str, Any]) -> None:
    taken, refused = sorted_out(document)
    assert checked(taken) == taken
    assert all(why for why in refused.values())
    if not refused:
        assert checked(document) == taken
    for name in document.keys() - taken.keys():
        nothing = document[name] in (None, {}, "") or name == "models"
        assert nothing or any(path.split(".")[0] == name for path in refused)


def test_what_changed_is_told_by_setting_and_by_model() -> None:
    before = {"priority": 1, "max_tokens": 5, "models": {"a": {"pinned": True}, "b": {}}}
    after = {"priority": 2, "max_tokens": 5, "models": {"b": {}, "c": {"cap": 1}}}
    assert changed(before, after) == {"priority", "models.a", "models.c"}


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        ("max_batch_size=4", {"max_batch_size": 4}),
        ("log_level=debug", {"log_level": "debug"}),
        ("priority=null", {"priority": None}),
        ("anonymous_limit.requests_per_minute=5", {"anonymous_limit": {"requests_per_minute": 5}}),
        ("models.magika.pinned=true", {"models": {"magika": {"pinned": True}}}),
        ("models.qwen2.5-0.5b-instruct.context=512", {"models": {"qwen2.5-0.5b-instruct": {"context": 512}}}),
        ('models."qwen2.5".keep_alive=5m', {"models": {"qwen2.5": {"keep_alive": "5m"}}}),
        ("models.qwen2.5.weights.0123abcd=5", {"models": {"qwen2.5": {"weights": {"0123abcd": 5}}}}),
        ("models.qwen2.5=null", {"models": {"qwen2.5": None}}),
        ('models.echo={"cap": 2}', {"models": {"echo": {"cap": 2}}}),
        ("mqtt_url=mqtt://a:b=c@host:1", {"mqtt_url": "mqtt://a:b=c@host:1"}),
    ],
)
def test_nested_names_are_typed_with_dots(typed: str, made: dict[str, Any]) -> None:
    assert pairs.settings([typed]) == made


@pytest.mark.parametrize("typed", ["priority", "=5", "models.echo.pined=true", "a..b=1", "models.=1"])
def test_what_is_no_name_is_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        pairs.settings([typed])


def test_of_one_node_is_shown_what_it_is_told_and_by_which_layer(
    controller: Controller, tmp_path: Path
) -> None:
    controller.join(tmp_path, "shown", room="kitchen")
    controller.run(
        "config", "set", "--to", "room=kitchen", "priority=3", "models.a.b.cap=2", "log_level=debug"
    )
    controller.run("config", "set", "--node", "shown", "priority=4", "models.a.b.runners=1")
    told = json.loads(controller.run("config", "show", "--node", "shown", "--json").stdout)
    models = {"a.b": {"cap": 2, "runners": 1}}
    assert told["settings"] == {"priority": 4, "log_level": "debug", "models": models}
    assert {".".join(one["path"]): (one["value"], one["source"]) for one in told["sources"]} == {
        "log_level": ("debug", "room=kitchen"),
        "models.a.b.cap": (2, "room=kitchen"),
        "models.a.b.runners": (1, "node:shown"),
        "priority": (4, "node:shown"),
    }
    assert 'models."a.b".cap' in controller.run("config", "show", "--node", "shown").stdout
    controller.run("config", "unset", "--node", "shown", "priority", "models.a.b.runners")
    told = json.loads(controller.run("config", "show", "--node", "shown", "--json").stdout)
    assert told["settings"] == {"priority": 3, "log_level": "debug", "models": {"a.b": {"cap": 2}}}
    assert (
        "there is no node 'nobody'"
        in controller.run("config", "show", "--node", "nobody", check=False).stderr
    )


def test_a_change_is_undone_by_its_number(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path, "undone")
    controller.configure("node:undone", priority=3, models={"a": {"cap": 2, "runners": 1}, "b": {"cap": 1}})
    before = controller.nodes()["undone"]
    controller.configure(
        "node:undone", priority=4, max_tokens=9, models={"a": {"cap": 5}, "b": None, "c": {"cap": 1}}
    )
    [change, first] = json.loads(controller.run("config", "history", "--node", "undone", "--json").stdout)
    assert first["undo"] == {"priority": None, "models": None}
    assert "max_tokens" in controller.run("config", "history", "--node", "undone").stdout
    controller.run("config", "rollback", str(change["id"]))
    with controller.client() as client:
        told = client.get("/api/v1/nodes/undone/config").json()
    assert told["settings"] == {
        "priority": 3,
        "models": {"a": {"cap": 2, "runners": 1}, "b": {"cap": 1}},
    }
    assert told["generation"] == before["generation"] + 2
    assert "there is no change 999999" in controller.run("config", "rollback", "999999", check=False).stderr


@pytest.mark.parametrize(
    ("version", "told"),
    [("1.2.0", ""), ("", ""), ("1.2", "other"), ("1.1.9", "older"), ("1.10", "newer"), ("1.2.0rc1", "other")],
)
def test_another_release_is_told_by_its_numbers(version: str, told: str) -> None:
    assert skew(version, "1.2.0") == told


def test_a_node_of_another_release_works_and_is_shown_as_such(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path, "ahead-of-us")
    report = {"boot": "boot-one", "number": 1, "version": "99.0.0", "mood": "fine", "streams": {"dreams": 3}}
    report["items"] = {"priority": {"state": "half_applied", "since": 5}}
    with controller.client(tmp_path / "cloud" / "identity.pem", role=None) as node:
        answer = node.post("/api/v1/node/report", json=report)
        assert answer.status_code == 200, answer.text
    row = controller.until("ahead-of-us", skew="newer")
    assert row["reported"]["items"] == {"priority": {"state": "half_applied", "reason": ""}}
    assert "99.0.0 (newer)" in " ".join(controller.run("nodes").stdout.split())


def test_a_hint_tells_the_epoch_beside_the_generation(controller: Controller, tmp_path: Path) -> None:
    controller.join(tmp_path / "one", "restored")
    controller.join(tmp_path / "two", "beside")
    identity = tmp_path / "one" / "cloud" / "identity.pem"
    beside = tmp_path / "two" / "cloud" / "identity.pem"
    with (
        controller.client(identity, role=None) as node,
        controller.client(beside, role=None) as other,
        other.stream("GET", "/api/v1/node/hints") as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        report = {"boot": "boot-one", "number": 1, "version": "0.1.0"}
        epoch = node.post("/api/v1/node/report", json=report).json()["epoch"]
        ahead = report | {"number": 2, "epoch": epoch, "generation": 500}
        assert node.post("/api/v1/node/report", json=ahead).json()["epoch"] == epoch + 1
        ids = (line for line in lines if line.startswith("id: "))
        assert next(ids) == f"id: {epoch + 1}.1"
