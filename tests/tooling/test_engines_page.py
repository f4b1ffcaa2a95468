"""docs/engines.md: the plug-in that it shows works as shown, and its descriptions are ones."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.remote import Remote, read
from tests.support.agent import Agent

PAGE = (Path(__file__).parents[2] / "docs/engines.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)


def block(kind: str, having: str) -> str:
    (found,) = [code for its, code in BLOCKS if its == kind and having in code]
    return found


def installed(folder: Path) -> Path:
    """The page's plug-in, as pip would lay it down there."""
    (folder / "shout.py").write_text(block("python", "def load("))
    project = tomllib.loads(block("toml", "entry-points"))["project"]
    about = folder / "shout_engine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    points = project["entry-points"]["openautoglm.engines"]
    lines = ["[openautoglm.engines]", *(f"{name} = {target}" for name, target in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_the_whole_plug_in_of_the_page_answers(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    start = re.search(r"AUTOGLM_ENGINE=(\w+)", block("sh", "curl"))
    assert start
    agent = start_agent(AUTOGLM_ENGINE=start[1], PYTHONPATH=os.fspath(installed(tmp_path)))
    asked = [{"prompt": "hello", "max_tokens": 8}, {"prompt": ["one\ntwo\n", "three"], "stop": ["R"]}]
    told = [httpx.post(f"{agent.base_url}/v1/completions", json=body).json() for body in asked]
    texts = [[choice["text"] for choice in one["choices"]] for one in told]
    assert texts == [["HELLO"], ["TWO", "TH"]]
    assert told[0]["usage"]["completion_tokens"] == 6
    assert agent.status()["models"][0]["engine"] == "shout"


@pytest.mark.parametrize("text", [code for kind, code in BLOCKS if kind == "toml" and "engine =" in code])
def test_a_description_in_the_page_is_one(text: str, tmp_path: Path) -> None:
    file = tmp_path / "far.toml"
    file.write_text(text)
    assert read(file).model


def test_every_key_of_a_description_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ?(.*?) ?\| ", PAGE.partition("| Key |")[2], re.M))
    assert rows.keys() >= Remote.model_fields.keys()
    for name, field in Remote.model_fields.items():
        if isinstance(field.default, int | float):
            assert rows[name] == f"{field.default:g}"
