"""The description of a remote model: what it may say, and where it may come from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.errors import BadFile, ModelError
from models.format import engine_for
from models.remote import MAX_SIZE, read
from models.shelf import Shelf, Version
from models.sources import pull
from tests.models.site import Served, Site

GOOD = 'engine = "openai"\nurl = "http://box:8000/v1/"\nmodel = "meta/Llama-3"\n'


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "far.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def bring(source: str | Path, shelf: Shelf) -> Version:
    return asyncio.run(pull(str(source), shelf, report=lambda _: None))


def test_it_is_told_by_its_content(tmp_path: Path) -> None:
    assert engine_for(write(tmp_path, GOOD)) == "openai"
    assert engine_for(write(tmp_path, "# 远\n" + GOOD.replace("openai", "triton"))) == "triton"
    assert read(write(tmp_path, GOOD)).url == "http://box:8000/v1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello there", "not TOML"),
        (b"hello \xff", "not TOML"),
        ("[" * 5000, "not TOML"),
        (GOOD + "#" * MAX_SIZE, "at most"),
        (GOOD.replace("openai", "ftp"), "engine"),
        ('engine = "openai"\nurl = "http://box"', "model"),
        (GOOD + 'speed = "high"', "speed"),
        (GOOD + "retries = 99", "retries"),
        (GOOD + "timeout_s = nan", "timeout_s"),
        (GOOD + 'version = "2"', "triton"),
        (GOOD + 'api_key_env = "A_API_KEY"\napi_key_file = "b"', "either"),
        *(
            (GOOD.replace("http://box:8000/v1/", url), "url")
            for url in (
                "box:8000", "file:///etc/passwd", "http://", "http://box/v1?key=hush-7391", "http://box/#hush-7391",
                "http://user:hush-7391@box/", "http://box:99999", "http://box:0", "http://box/a/../b",
                "http://b ox", "http://box/?", "https://",
            )
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said_and_no_secret_repeated(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(BadFile) as caught:
        engine_for(write(tmp_path, text))
    assert says in str(caught.value)
    assert "hush-7391" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "sk-hush-7391"',
        'Authorization = "Bearer sk-hush-7391"',
        'token = "sk-hush-7391"',
        'api_key_env = "sk-hush-7391"',
        'api_key_file = "/run/secrets/hush-7391"',
        'api_key_file = "../hush-7391"',
        'api_key_env = "HF_TOKEN"',
    ],
)
def test_it_names_a_key_and_never_holds_one_nor_names_another_secret(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadFile) as caught:
        engine_for(write(tmp_path, GOOD + line))
    assert "key" in str(caught.value)
    assert "hush-7391" not in str(caught.value)


def test_edited_in_place_it_is_another_version_and_the_former_one_stays(tmp_path: Path, shelf: Shelf) -> None:
    file = write(tmp_path, GOOD)
    first = bring(file, shelf)
    with file.open("r+") as there:
        there.write(GOOD.replace("box", "bax"))
    second = bring(file, shelf)
    assert (first.manifest.engine, first.model) == ("openai", "far")
    assert (read(first.path).url, read(second.path).url) == ("http://box:8000/v1", "http://bax:8000/v1")
    assert first.version != second.version


def test_it_comes_from_this_machine_alone(site: Site, shelf: Shelf) -> None:
    site.served["/far.gguf"] = Served(GOOD.encode())
    with pytest.raises(ModelError, match="not a GGUF or ONNX file"):
        bring(f"{site.url}/far.gguf", shelf)
