"""What a pull by URL promises: the right bytes or a clear error, and no byte fetched twice."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from models import sources
from models.errors import (
    AccessDenied,
    BadSource,
    GGUFError,
    ModelError,
    NotThere,
    PullError,
    Unreachable,
    WrongDigest,
)
from models.shelf import Shelf, Version
from models.sources import Progress
from tests.models.files import MIB, minimal_pairs, model_of, raw, sha256
from tests.models.site import Served, Site, until

DATA = model_of(3 * MIB)
OTHER = model_of(3 * MIB, salt=1)


async def pull(source: str, shelf: Shelf, name: str | None = None) -> Version:
    return await sources.pull(source, shelf, name=name, report=lambda _: None)


def left_over(shelf: Shelf) -> list[Path]:
    return list(shelf.work.iterdir())


async def test_a_url_comes_to_the_shelf_under_its_files_name(site: Site, shelf: Shelf) -> None:
    site.served["/some/My%20Model.Q4.gguf"] = Served(DATA)
    rows: list[Progress] = []
    url = f"{site.url}/some/My%20Model.Q4.gguf?download=true"
    version = await sources.pull(url, shelf, report=rows.append)
    assert version.model == "My-Model.Q4"
    assert version.path.read_bytes() == DATA
    assert version.manifest.source == f"{site.url}/some/My%20Model.Q4.gguf"
    assert shelf.versions() == [version]
    assert left_over(shelf) == []
    downloading = [row.done for row in rows if row.phase == "downloading"]
    assert downloading == sorted(downloading)
    assert downloading[-1] == len(DATA)
    assert rows[-1] == Progress("ready", len(DATA), len(DATA))


async def test_a_dropped_connection_goes_on_where_it_was(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, cuts=[MIB, 1000, 0, MIB // 2])
    version = await pull(f"{site.url}/m.gguf#sha256={sha256(DATA)}", shelf)
    assert version.path.read_bytes() == DATA
    ranges = [one.headers.get("range") for one in site.asked("/m.gguf")]
    assert ranges == [
        None,
        f"bytes={MIB}-",
        f"bytes={MIB + 1000}-",
        f"bytes={MIB + 1000}-",
        f"bytes={MIB + 1000 + MIB // 2}-",
    ]


async def test_a_busy_server_is_asked_again(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, statuses=[(503, {"Retry-After": "0"}), (429, {})])
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_file_that_changed_between_two_tries_is_fetched_anew(
    site: Site, shelf: Shelf, pinned: bool
) -> None:
    site.served["/m.gguf"] = Served(DATA, cuts=[MIB])
    first = asyncio.create_task(pull(f"{site.url}/m.gguf{f'#sha256={sha256(OTHER)}' * pinned}", shelf))
    await until(lambda: site.asked("/m.gguf"))
    site.served["/m.gguf"] = Served(OTHER)
    assert (await first).path.read_bytes() == OTHER
    assert [one.status for one in site.asked("/m.gguf")] == [200, 200]


async def test_without_an_etag_an_unpinned_file_is_fetched_anew_and_a_pinned_one_goes_on(
    site: Site, shelf: Shelf
) -> None:
    site.served["/a.gguf"] = Served(DATA, etag="", cuts=[MIB])
    site.served["/b.gguf"] = Served(OTHER, etag="", cuts=[MIB])
    await pull(f"{site.url}/a.gguf", shelf)
    await pull(f"{site.url}/b.gguf#sha256={sha256(OTHER)}", shelf)
    assert [one.headers.get("range") for one in site.asked("/a.gguf")] == [None, None]
    assert [one.headers.get("range") for one in site.asked("/b.gguf")] == [None, f"bytes={MIB}-"]


async def test_a_server_without_ranges_begins_anew_each_time(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, ranges=False, cuts=[MIB, 2 * MIB])
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA
    assert [one.status for one in site.asked("/m.gguf")] == [200, 200, 200]


async def test_a_server_that_does_not_tell_the_size_is_believed_to_the_end(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA, length=False)
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA


async def test_a_file_cut_by_a_server_that_does_not_tell_the_size_is_refused(
    site: Site, shelf: Shelf
) -> None:
    site.served["/m.gguf"] = Served(DATA, length=False, cuts=[2 * MIB])
    with pytest.raises(GGUFError, match=f"^{site.url}/m.gguf: truncated"):
        await pull(f"{site.url}/m.gguf", shelf)
    assert shelf.versions() == []
    assert list(shelf.work.iterdir()) == []


async def test_another_content_than_the_pinned_one_is_refused_and_not_kept(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA)
    with pytest.raises(WrongDigest, match=sha256(DATA)):
        await pull(f"{site.url}/m.gguf#sha256={sha256(OTHER)}", shelf)
    assert shelf.versions() == []
    assert list(shelf.work.iterdir()) == []
    site.served["/m.gguf"] = Served(OTHER)
    assert (await pull(f"{site.url}/m.gguf#sha256={sha256(OTHER)}", shelf)).path.read_bytes() == OTHER


async def test_a_pinned_file_that_is_there_needs_no_network_under_any_name(site: Site, shelf: Shelf) -> None:
    site.served["/m.gguf"] = Served(DATA)
    pinned = f"{site.url}/m.gguf#sha256={sha256(DATA)}"
    first = await pull(pinned, shelf)
    site.served.clear()
    assert await pull(pinned, shelf) == first
    other = await pull(pinned, shelf, name="other")
    assert (other.model, other.path) == ("other", first.path)
    assert len(site.seen) == 1


async def test_an_unpinned_file_is_fetched_again_only_when_the_server_says_that_it_changed(
    site: Site, shelf: Shelf
) -> None:
    site.served["/m.gguf"] = Served(DATA)
    first = await pull(f"{site.url}/m.gguf", shelf)
    assert await pull(f"{site.url}/m.gguf", shelf) == first
    site.served["/m.gguf"] = Served(OTHER)
    second = await pull(f"{site.url}/m.gguf", shelf)
    assert second.path.read_bytes() == OTHER
    assert shelf.get("m") == second
    assert len(shelf.versions()) == 2


async def test_redirects_are_followed_and_no_token_goes_to_another_origin(
    site: Site, other_site: Site, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    site.served["/m.gguf"] = Served(redirect=f"{other_site.url}/cdn/x?signature=y", token="secret")
    other_site.served["/cdn/x"] = Served(DATA, cuts=[MIB])
    assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA
    assert [one.headers.get("range") for one in other_site.seen] == [None, f"bytes={MIB}-"]
    assert not any("authorization" in one.headers for one in other_site.seen)


@pytest.mark.parametrize(
    ("served", "error", "says"),
    [
        (Served(b"<html>not a model</html>" * 1000), PullError, "not a GGUF or ONNX file"),
        (Served(DATA, token="x"), AccessDenied, "HF_TOKEN"),
        (Served(statuses=[(403, {})]), AccessDenied, "403"),
        (Served(statuses=[(410, {})]), NotThere, "410"),
        (Served(statuses=[(418, {})]), PullError, "418"),
        (Served(statuses=[(500, {})] * 3), Unreachable, "500"),
        (Served(redirect="/m.gguf"), Unreachable, "redirects"),
        (Served(redirect="ftp://127.0.0.1/m.gguf"), ModelError, "ftp"),
        (Served(redirect="http://127.0.0.1:99999/m.gguf"), ModelError, "99999"),
        (Served(redirect="http://["), ModelError, "reached"),
        (Served(DATA, headers={"Content-Encoding": "gzip"}), PullError, "compresses"),
        (Served(raw(minimal_pairs(**{"llama.block_count": 999}))), GGUFError, "999 layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_had_is_refused_with_the_reason(
    site: Site, shelf: Shelf, served: Served, error: type[ModelError], says: str
) -> None:
    site.served["/m.gguf"] = served
    with pytest.raises(error, match=says):
        await pull(f"{site.url}/m.gguf", shelf)
    assert shelf.versions() == []


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/m.gguf", Unreachable),
        ("http://user:secret@127.0.0.1:1/m.gguf?token=secret", Unreachable),
        ("http://", ModelError),
        ("http://[::1/m.gguf", ModelError),
        ("http://127.0.0.1:99999/m.gguf", ModelError),
        ("http://127.0.0.1:x/m.gguf", BadSource),
        ("http://127.0.0.1/m.gguf#sha256=123", BadSource),
        ("http://127.0.0.1:1/%00%2e%2e", ModelError),
    ],
)
async def test_an_address_that_leads_nowhere_is_an_error_without_secrets(
    shelf: Shelf, url: str, error: type[ModelError]
) -> None:
    with pytest.raises(error) as raised:
        await pull(url, shelf)
    assert "secret" not in str(raised.value)


async def test_proxies_of_the_environment_are_used(
    site: Site, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.url)
    monkeypatch.setenv("NO_PROXY", "")
    site.served["/m.gguf"] = Served(DATA)
    version = await pull("http://models.invalid/m.gguf", shelf)
    assert version.path.read_bytes() == DATA
    assert site.seen[0].target == "http://models.invalid/m.gguf"


async def test_a_custom_ca_is_honoured_and_without_it_the_way_is_told(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, [*command, *extra], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = Site(context)
    try:
        site.served["/m.gguf"] = Served(DATA)
        with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
            await pull(f"{site.url}/m.gguf", shelf)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await pull(f"{site.url}/m.gguf", shelf)).path.read_bytes() == DATA
    finally:
        site.stop()
