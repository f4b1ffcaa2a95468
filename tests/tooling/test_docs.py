"""What is written agrees with what is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.config import Settings
from agent.model_settings import ModelSettings

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(AUTOGLM_[A-Z0-9_]+)` \| (.+?) \|", re.M)
DOCUMENTED = dict(ROW.findall((ROOT / "docs/configuration.md").read_text()))
CODE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)#:]+)\)")
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_every_setting_is_documented_and_nothing_else() -> None:
    beside = {"AUTOGLM_CONFIG", "AUTOGLM_API_KEY"}  # read by the command line, not settings
    assert set(DOCUMENTED) - beside == {f"AUTOGLM_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_of_one_model_is_documented_and_nothing_else() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    section = page.partition("## One model")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(ModelSettings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_documented_defaults_are_the_defaults(name: str) -> None:
    default = Settings.model_fields[name].default
    told = DOCUMENTED[f"AUTOGLM_{name.upper()}"]
    if isinstance(default, str | int | float | list) and not isinstance(default, bool):
        plain = default if isinstance(default, str) else json.dumps(default).removesuffix(".0")
        assert told == f"`{plain}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


def test_both_readmes_show_the_same_code() -> None:
    """Comments, which are translated, apart."""
    ours, theirs = (
        [
            (kind, re.sub(r"#.*", "", code))
            for kind, code in CODE.findall((ROOT / name).read_text())
            if kind != "mermaid"
        ]
        for name in ("README.md", "README.zh.md")
    )
    assert ours == theirs
