"""What a pull of `owner/repo[:file]` promises, against a server with the hub's API."""

from __future__ import annotations

import json

import pytest

from models import sources
from models.errors import AccessDenied, BadSource, ModelError, NotThere, PullError, Unreachable, WrongDigest
from models.shelf import Shelf, Version
from models.sources import known
from models.sources.catalog import catalog
from tests.models.files import model_of, sha256
from tests.models.hub import Hub
from tests.models.site import Served, Site

Q4, Q8, F16 = (model_of(100_000, salt=salt) for salt in (4, 8, 16))
SMALL = {
    ".gitattributes": b"*.gguf filter=lfs",
    "README.md": b"# Tiny",
    "Tiny-Q4_K_M.gguf": Q4,
    "Tiny-Q8_0.gguf": Q8,
    "Tiny-f16.gguf": F16,
    "mmproj-Tiny-Q4_K_M.gguf": b"GGUF vision",
}


@pytest.fixture
def hub(site: Site, other_site: Site, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    started = Hub(site, other_site)
    started.add("owner/Tiny-GGUF", SMALL)
    return started


async def pull(source: str, shelf: Shelf, name: str | None = None) -> Version:
    return await sources.pull(source, shelf, name=name, report=lambda _: None)


async def test_a_repository_gives_its_best_quantisation_under_its_own_name(hub: Hub, shelf: Shelf) -> None:
    version = await pull("owner/Tiny-GGUF", shelf)
    assert (version.model, version.manifest.source) == ("Tiny-GGUF", "owner/Tiny-GGUF")
    assert version.manifest.files[0].path == "Tiny-Q4_K_M.gguf"
    assert version.path.read_bytes() == Q4
    assert hub.site.seen[0].target == "/api/models/owner/Tiny-GGUF/tree/main?recursive=true"


@pytest.mark.parametrize(
    "wanted", ["Tiny-Q8_0.gguf", "Q8_0", "q8_0"], ids=["file", "quantisation", "lower case"]
)
async def test_a_file_is_named_by_its_name_or_its_quantisation(hub: Hub, shelf: Shelf, wanted: str) -> None:
    assert (await pull(f"owner/Tiny-GGUF:{wanted}", shelf)).path.read_bytes() == Q8


async def test_a_page_of_the_hub_is_as_good_as_its_name(hub: Hub, shelf: Shelf) -> None:
    page = f"{hub.site.url}/owner/Tiny-GGUF"
    assert (await pull(f"{page}/blob/main/Tiny-Q8_0.gguf", shelf)).path.read_bytes() == Q8
    assert (await pull(page, shelf)).path.read_bytes() == Q4


async def test_a_page_of_the_hub_with_a_digest_gives_that_content_or_nothing(hub: Hub, shelf: Shelf) -> None:
    page = f"{hub.site.url}/owner/Tiny-GGUF/resolve/main/Tiny-Q8_0.gguf"
    with pytest.raises(WrongDigest):
        await pull(f"{page}#sha256={sha256(Q4)}", shelf)
    assert (await pull(f"{page}#sha256={sha256(Q8)}", shelf)).path.read_bytes() == Q8


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["m-Q8_0", "m-Q4_0", "m-Q2_K"], "m-Q4_0"),
        (["m.Q5_K_M", "m.q4_k_m", "m.Q4_K_S"], "m.q4_k_m"),
        (["m-f16", "m-Q8_0"], "m-Q8_0"),
        (["m-IQ4_XS", "m-Q3_K_M"], "m-IQ4_XS"),
        (["m-Q4_K_M-00001-of-00002", "m-Q4_K_M-00002-of-00002", "m-Q6_K"], "m-Q6_K"),
        (["deep/m-Q4_K_M", "m-Q8_0"], "deep/m-Q4_K_M"),
        (["something"], "something"),
    ],
)
async def test_the_choice_goes_by_quality_for_memory(
    hub: Hub, shelf: Shelf, names: list[str], best: str
) -> None:
    contents = {f"{name}.gguf": model_of(10_000, salt=number) for number, name in enumerate(names)}
    hub.add("owner/m", contents)
    assert (await pull("owner/m", shelf)).path.read_bytes() == contents[f"{best}.gguf"]


async def test_a_repository_without_gguf_is_refused_with_what_to_do(hub: Hub, shelf: Shelf) -> None:
    hub.add("owner/Raw", {"model.safetensors": b"x", "config.json": b"{}"})
    with pytest.raises(NotThere, match="Raw-GGUF"):
        await pull("owner/Raw", shelf)


async def test_a_model_in_parts_is_refused_with_what_to_do(hub: Hub, shelf: Shelf) -> None:
    hub.add("owner/Big", {f"b-Q4_K_M-0000{part}-of-00002.gguf": b"x" for part in (1, 2)})
    for source in ("owner/Big", "owner/Big:b-Q4_K_M-00001-of-00002.gguf"):
        with pytest.raises(BadSource, match="join"):
            await pull(source, shelf)


async def test_a_file_that_is_not_there_is_told_with_those_that_are(hub: Hub, shelf: Shelf) -> None:
    with pytest.raises(NotThere, match=r"Tiny-Q4_K_M\.gguf, Tiny-Q8_0\.gguf"):
        await pull("owner/Tiny-GGUF:Q3_K_L", shelf)


async def test_a_known_repository_without_gguf_maps_to_a_quantised_one_and_keeps_its_name(
    hub: Hub, shelf: Shelf
) -> None:
    repository, _, file = catalog().instead["meta-llama/Llama-3-8B"].partition(":")
    hub.add(repository, {file: Q4, "other-Q8_0.gguf": Q8})
    version = await pull("meta-llama/Llama-3-8B", shelf)
    assert (version.model, version.path.read_bytes()) == ("Llama-3-8B", Q4)
    assert known("meta-llama/Llama-3-8B", shelf) == version


async def test_a_catalog_name_may_lead_to_the_hub(hub: Hub, shelf: Shelf) -> None:
    entry = catalog().entry("qwen2.5-0.5b-instruct")
    assert entry is not None
    repository, _, file = entry.hub.partition(":")
    hub.add(repository, {file: Q4})
    version = await pull("qwen2.5-0.5b-instruct", shelf)
    assert (version.model, version.path.read_bytes()) == ("qwen2.5-0.5b-instruct", Q4)
    assert known("qwen2.5-0.5b-instruct", shelf) == version


async def test_the_digest_that_the_hub_states_is_checked(hub: Hub, shelf: Shelf) -> None:
    for tampered in (Q8, Q4 + b"\0"):
        hub.network.served[f"/{sha256(Q4)}"] = Served(tampered)
        with pytest.raises(WrongDigest):
            await pull("owner/Tiny-GGUF", shelf)
    assert shelf.versions() == []


async def test_what_is_there_is_not_fetched_again_and_is_known_without_the_hub(
    hub: Hub, shelf: Shelf
) -> None:
    first = await pull("owner/Tiny-GGUF", shelf)
    assert await pull("owner/Tiny-GGUF", shelf) == first
    assert len(hub.network.seen) == 1
    hub.site.stop()
    assert known("owner/Tiny-GGUF", shelf) == first
    assert known("owner/Tiny-GGUF:Q8_0", shelf) is None


async def test_two_quantisations_are_two_versions_of_one_model(hub: Hub, shelf: Shelf) -> None:
    first, second = await pull("owner/Tiny-GGUF", shelf), await pull("owner/Tiny-GGUF:Q8_0", shelf)
    assert first.model == second.model
    assert shelf.get(first.model) == second
    assert (await pull("owner/Tiny-GGUF", shelf)).version == first.version
    assert shelf.get(first.model).version == first.version


async def test_a_gated_repository_is_opened_by_the_token_which_goes_to_the_hub_alone(
    hub: Hub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    hub.add("owner/Gated", SMALL)
    with pytest.raises(AccessDenied, match=r"restricted.*HF_TOKEN"):
        await pull("owner/Gated", shelf)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AccessDenied):
        await pull("owner/Gated", shelf)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    version = await pull("owner/Gated", shelf)
    assert b"hf_secret" not in version.manifest.to_bytes()
    assert not any("authorization" in one.headers for one in hub.network.seen)


async def test_a_next_page_elsewhere_gets_no_token(
    hub: Hub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    headers = {"Link": f'<{hub.network.url}/elsewhere>; rel="next"'}
    hub.site.served["/api/models/owner/x/tree/main"] = Served(b"[]", headers=headers)
    hub.network.served["/elsewhere"] = Served(b"[]")
    with pytest.raises(NotThere):
        await pull("owner/x", shelf)
    assert [one.target for one in hub.network.seen] == ["/elsewhere"]
    assert "authorization" not in hub.network.seen[0].headers


BAD_DIGEST = [{"type": "file", "path": "a.gguf", "lfs": {"oid": "x", "size": 1}}]


@pytest.mark.parametrize(
    ("served", "error"),
    [
        (Served(b"<html>"), PullError),
        (Served(b'{"error": 1}'), PullError),
        (Served(json.dumps(BAD_DIGEST).encode()), PullError),
        (Served(b"[" + b" " * 9_000_000 + b"]"), PullError),
        (Served(statuses=[(503, {})] * 3), Unreachable),
        (Served(statuses=[(404, {"X-Error-Message": "x" * 100_000})]), NotThere),
    ],
)
async def test_a_broken_answer_of_the_hub_is_a_clear_error(
    hub: Hub, shelf: Shelf, served: Served, error: type[ModelError]
) -> None:
    hub.site.served["/api/models/owner/x/tree/main"] = served
    with pytest.raises(error) as raised:
        await pull("owner/x", shelf)
    assert len(str(raised.value)) < 1000


async def test_a_repository_that_is_not_there_is_told(hub: Hub, shelf: Shelf) -> None:
    with pytest.raises(AccessDenied, match="Repository not found"):
        await pull("owner/nothing", shelf)
