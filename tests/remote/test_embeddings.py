"""`/v1/embeddings` of a remote Model: one body there for one body here, and the same promises."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from tests.remote.conftest import command, pull, until, worker_of
from tests.support import upstream as does
from tests.support.agent import Agent
from tests.support.bert import WIDTH, Bert
from tests.support.upstream import Handler, Upstream

TEXTS = ["An edge device is a small computer.", "dog", "The quick brown fox jumps over the lazy dog."]


def ask(agent: Agent, given: Any = "dog", model: str = "far", **more: Any) -> httpx.Response:
    body = {"model": model, "input": given, **more}
    return httpx.post(f"{agent.base_url}/v1/embeddings", json=body, timeout=60)


def row(vector: Any, index: int = 0) -> dict[str, Any]:
    return {"index": index, "embedding": vector}


def vectors(*rows: dict[str, Any], tokens: Any = 7) -> does.Step:
    """What a server answers with."""
    return does.status(200, {"data": list(rows), "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def packed(*numbers: float) -> str:
    return base64.b64encode(array("f", numbers).tobytes()).decode()


GOOD = vectors(row([0.6, 0.8]))


@pytest.fixture(scope="module")
def second(start_agent: Callable[..., Agent], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Another agent, with a real small BERT by each engine."""
    folder = tmp_path_factory.mktemp("bert")
    there = start_agent(
        AUTOGLM_ENGINE="llama", AUTOGLM_MODEL=str(Bert().write_gguf(folder / "gguf-bert.gguf"))
    )
    there.pull(Bert().write_folder(folder / "onnx-bert"), "onnx-bert")
    return there


@pytest.mark.parametrize("model", ["gguf-bert", "onnx-bert"])
def test_another_agents_embeddings_come_through_as_they_are(
    agent: Agent, second: Agent, tmp_path: Path, model: str
) -> None:
    pull(agent, tmp_path, f"theirs-{model}", url=f"{second.base_url}/v1", model=model)
    here, there = (
        OpenAI(base_url=f"{one.base_url}/v1", api_key="none", timeout=60, max_retries=0)
        for one in (agent, second)
    )
    ids = [[5, 6, 7], [8]]
    for given in (TEXTS, TEXTS[0], ids, ids[0]):
        for how in ({}, {"encoding_format": "float"}, {"dimensions": 16}):
            ours = here.embeddings.create(model=f"theirs-{model}", input=given, **how)
            theirs = there.embeddings.create(model=model, input=given, **how)
            assert [one.index for one in ours.data] == list(range(len(theirs.data)))
            assert np.allclose(
                [one.embedding for one in ours.data], [one.embedding for one in theirs.data], atol=1e-6
            )
            assert ours.usage == theirs.usage
            assert ours.usage.prompt_tokens > 0
            assert ours.model == f"theirs-{model}"
    refused = ask(agent, model=f"theirs-{model}", dimensions=WIDTH + 1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")
    refused = ask(agent, [[5] * 2000], model=f"theirs-{model}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_all_inputs_of_a_body_go_there_as_one(agent: Agent, server: Upstream) -> None:
    server.next(vectors(row(packed(0, 1), 2), row(packed(1, 0), 0), row([0.6, 0.8], 1)))
    answer = ask(agent, TEXTS, dimensions=2).json()
    assert [one.path for one in server.asked] == ["/v1/embeddings"]
    assert server.asked[0].body == {"model": "theirs", "input": TEXTS, "encoding_format": "base64"}
    assert [one["embedding"] for one in answer["data"]] == [[1, 0], pytest.approx([0.6, 0.8]), [0, 1]]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_vectors_have_length_1_whatever_the_server_makes(agent: Agent, server: Upstream) -> None:
    server.next(vectors(row([3, 4])), vectors(row(packed(3, 4))), vectors(row([0, 0])))
    found = [ask(agent).json()["data"][0]["embedding"] for _ in range(3)]
    assert found == [pytest.approx([0.6, 0.8]), pytest.approx([0.6, 0.8]), [0, 0]]


def test_tokens_and_texts_are_counted_in_the_metrics(agent: Agent, server: Upstream) -> None:
    before = agent.metric("prompt_tokens_total")
    server.next(vectors(row([1]), row([1], 1), tokens=31))
    assert ask(agent, ["a", "b"]).status_code == 200
    until(lambda: agent.metric("prompt_tokens_total") == before + 31)


@pytest.mark.parametrize("code", [502, 503, 504, 429])
def test_what_may_be_better_soon_is_tried_again(agent: Agent, server: Upstream, code: int) -> None:
    server.next(does.status(code), does.status(code), GOOD)
    assert ask(agent).status_code == 200
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("code", "becomes", "word"),
    [(400, 400, "invalid_request"), (401, 502, "upstream_failed"), (500, 502, "upstream_failed")],
)
def test_the_servers_error_is_told_once_with_the_right_status(
    agent: Agent, server: Upstream, code: int, becomes: int, word: str
) -> None:
    server.next(does.status(code))
    answer = ask(agent)
    assert (answer.status_code, answer.json()["error"]["code"], len(server.asked)) == (becomes, word, 1)
    assert "told so" in answer.text or code == 401


def cut(handler: Handler) -> None:
    """A body that ends before its length."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')


def test_an_answer_that_is_cut_off_is_asked_for_again(agent: Agent, server: Upstream) -> None:
    server.next(cut, GOOD)
    assert ask(agent).status_code == 200
    assert len(server.asked) == 2


RUBBISH = {
    "no json": does.status(200, b"<html>"),
    "deep": does.status(200, b"[" * 100_000),
    "no data": does.status(200, {"object": "list"}),
    "none": vectors(),
    "too many": vectors(row([1]), row([1], 1)),
    "another index": vectors(row([1], 1)),
    "no numbers": vectors(row([])),
    "words": vectors(row(["a"])),
    "no base64": vectors(row("????")),
    "half a number": vectors(row("AAAA")),
    "not a number": vectors(row(packed(float("nan")))),
    "infinite": vectors(row([1e300])),
    "nulls": vectors(row([None])),
    "usage": vectors(row([1]), tokens=1 << 70),
    "endless": does.status(200, b" " * (9 << 20)),
}


@pytest.mark.parametrize("wrong", RUBBISH)
def test_rubbish_ends_that_request_alone(agent: Agent, server: Upstream, wrong: str) -> None:
    server.next(GOOD, RUBBISH[wrong], GOOD)
    assert ask(agent, model="quick").status_code == 200
    worker = worker_of(agent, "quick")
    answer = ask(agent, model="quick")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed"), answer.text
    assert ask(agent, model="quick").status_code == 200
    assert worker_of(agent, "quick") == worker


def test_vectors_of_several_lengths_are_rubbish_too(agent: Agent, server: Upstream) -> None:
    server.next(vectors(row([1]), row([1, 0], 1)))
    assert ask(agent, ["a", "b"]).status_code == 502


def test_a_silent_server_is_given_up_and_a_deadline_ends_it_there_too(agent: Agent, server: Upstream) -> None:
    for model, more in (("quick", {}), ("far", {"timeout": 0.5})):
        server.next(does.hang)
        assert (ask(agent, model=model, **more).status_code, len(server.asked)) == (504, 1)
        assert server.gone.wait(5)


def test_a_model_that_moves_here_from_there_goes_on_embedding(
    agent: Agent, server: Upstream, echo_model: Path, tmp_path: Path
) -> None:
    assert "version" in pull(agent, tmp_path, "mover-of-texts", url=server.url)
    server.next(vectors(row([1]), row([1], 1)))
    assert len(ask(agent, ["a", "b"], model="mover-of-texts").json()["data"]) == 2
    agent.pull(echo_model, "mover-of-texts")
    assert len(ask(agent, ["a", "b"], model="mover-of-texts").json()["data"]) == 2
    assert len(server.asked) == 1
    assert command(agent, "mover-of-texts", "unload").status_code == 200
