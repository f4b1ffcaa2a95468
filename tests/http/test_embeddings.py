"""`/v1/embeddings` with the real `openai` client: both engines, judged by the engines' own libraries."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import llama_cpp
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from openai import BadRequestError, OpenAI

from tests.support.agent import Agent
from tests.support.bert import POSITIONS, WIDTH, Bert

TEXTS = [
    "An edge device is a small computer.",
    "The quick brown fox jumps over the lazy dog.",
    "Temperature is measured each second, and sent when the network is there.",
    "dog",
]
MODELS = ["onnx-bert", "gguf-bert", "smollm"]
SAME = 0.999
"""The least cosine of what is the same vector but for the order of sums, and Q4_1's rounding in batches."""
Vector = NDArray[np.float64]


@dataclass
class Reference:
    """What the engines' own libraries make of a text, in this process, alone."""

    bert: Bert
    session: ort.InferenceSession
    llama: dict[str, llama_cpp.Llama]

    def vector(self, model: str, text: str) -> Vector:
        if model in self.llama:
            return np.array(self.llama[model].embed(text, normalize=True))
        ids = np.array([self.bert.tokenizer.encode(text).ids])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = self.session.run(None, given)[0][0].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    def tokens(self, model: str, text: str) -> list[int]:
        if model in self.llama:
            return list(self.llama[model].tokenize(text.encode()))
        return list(self.bert.tokenizer.encode(text).ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> dict[str, Path]:
    """The same small BERT for both engines, and the real SmolLM2."""
    root, bert = tmp_path_factory.mktemp("models"), Bert()
    return {
        "gguf-bert": bert.write_gguf(root / "gguf-bert.gguf"),
        "onnx-bert": bert.write_folder(root / "onnx-bert", data="weights.bin"),
        "smollm": model_path,
    }


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Agent], files: dict[str, Path], magika_path: Path) -> Agent:
    agent = start_agent(
        AUTOGLM_ENGINE="llama",
        AUTOGLM_MODEL=str(files["gguf-bert"]),
        AUTOGLM_KV_TYPE="q8_0",  # one candidate: no trial of others
        AUTOGLM_MAX_BATCH_SIZE="32",
        AUTOGLM_CONTEXT="256",
    )
    for name, source in {**files, "magika": magika_path}.items():
        agent.pull(source, name)
    return agent


@pytest.fixture(scope="module")
def reference(files: dict[str, Path]) -> Reference:
    def llama(name: str, **how: Any) -> llama_cpp.Llama:
        return llama_cpp.Llama(str(files[name]), embedding=True, verbose=False, n_ctx=512, **how)

    return Reference(
        Bert(),
        ort.InferenceSession(files["onnx-bert"] / "onnx/model.onnx", providers=["CPUExecutionProvider"]),
        {
            "gguf-bert": llama("gguf-bert"),
            "smollm": llama("smollm", pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN),
        },
    )


@pytest.fixture(scope="module")
def client(agent: Agent, connect: Callable[..., OpenAI]) -> OpenAI:
    made: OpenAI = connect(agent)
    return made


def embed(client: OpenAI, model: str, given: Any, **more: Any) -> list[Vector]:
    found = client.embeddings.create(model=model, input=given, **more)
    assert [one.index for one in found.data] == list(range(len(found.data)))
    return [np.array(one.embedding) for one in found.data]


def near(left: Sequence[Vector], right: Sequence[Vector]) -> bool:
    return len(left) == len(right) and all(a @ b > SAME for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_the_engine_itself(client: OpenAI, reference: Reference, model: str) -> None:
    found = embed(client, model, TEXTS)
    assert near(found, [reference.vector(model, text) for text in TEXTS])
    assert all(abs(np.linalg.norm(one) - 1) < 1e-5 for one in found)


@pytest.mark.parametrize("model", MODELS)
def test_texts_in_a_batch_get_what_each_gets_alone(client: OpenAI, model: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        alone = [one for (one,) in pool.map(lambda text: embed(client, model, text), TEXTS)]
    assert near(embed(client, model, TEXTS), alone)


def test_many_inputs_are_answered_in_their_order(client: OpenAI) -> None:
    many = [f"{TEXTS[at % 4]} {'dog ' * (at % 7)}" for at in range(70)]  # more than a batch may have
    found = embed(client, "onnx-bert", many)
    assert near(found[::23], [embed(client, "onnx-bert", one)[0] for one in many[::23]])


def test_the_same_model_gives_the_same_by_either_engine(client: OpenAI) -> None:
    assert near(embed(client, "onnx-bert", TEXTS), embed(client, "gguf-bert", TEXTS))


@pytest.mark.parametrize("model", MODELS)
def test_a_text_of_many_pieces_is_as_one_in_one_piece(
    client: OpenAI, reference: Reference, model: str
) -> None:
    text = "dog fox " * (14 if "bert" in model else 80)
    assert near(embed(client, model, text), [reference.vector(model, text)])


@pytest.mark.parametrize("model", MODELS)
def test_usage_counts_tokens_exactly(client: OpenAI, reference: Reference, model: str) -> None:
    usage = client.embeddings.create(model=model, input=TEXTS).usage
    wanted = sum(len(reference.tokens(model, text)) for text in TEXTS)
    assert (usage.prompt_tokens, usage.total_tokens) == (wanted, wanted)


@pytest.mark.parametrize("model", MODELS)
def test_all_four_forms_of_input_are_taken(client: OpenAI, reference: Reference, model: str) -> None:
    ids = [reference.tokens(model, text) for text in TEXTS]
    wanted = embed(client, model, TEXTS)
    assert near(embed(client, model, ids), wanted)
    assert near(embed(client, model, ids[0]), wanted[:1])
    assert near(embed(client, model, TEXTS[0]), wanted[:1])


@pytest.mark.parametrize("model", MODELS)
def test_base64_and_floats_are_the_same_numbers(agent: Agent, client: OpenAI, model: str) -> None:
    floats = embed(client, model, TEXTS, encoding_format="float")
    body = {"model": model, "input": TEXTS, "encoding_format": "base64"}
    rows = httpx.post(f"{agent.base_url}/v1/embeddings", json=body, timeout=60).json()["data"]
    packed = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    assert near(floats, packed)


@pytest.mark.parametrize("model", MODELS)
def test_fewer_dimensions_are_the_first_and_of_length_1_again(client: OpenAI, model: str) -> None:
    whole = embed(client, model, TEXTS)
    for short, long in zip(embed(client, model, TEXTS, dimensions=16), whole, strict=True):
        assert short @ (long[:16] / np.linalg.norm(long[:16])) > SAME
        assert abs(np.linalg.norm(short) - 1) < 1e-5


@pytest.mark.parametrize("model", MODELS)
def test_a_text_may_fill_the_context_and_not_be_longer(
    client: OpenAI, reference: Reference, model: str
) -> None:
    most = {"onnx-bert": POSITIONS // 2, "gguf-bert": POSITIONS, "smollm": 256}[model]
    token = reference.tokens(model, "dog")[-2 if "bert" in model else -1]
    assert embed(client, model, [token] * most)
    with pytest.raises(BadRequestError, match=f"{most + 1} tokens") as caught:
        embed(client, model, [[token], [token] * (most + 1)])
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "says", "param"),
    [
        ({}, "field required", "input"),
        ({"input": None}, "must be a string", "input"),
        ({"input": ""}, "must not be empty", "input"),
        ({"input": []}, "must not be empty", "input"),
        ({"input": ["a", ""]}, "must not be empty", "input"),
        ({"input": [[]]}, "must not be empty", "input"),
        ({"input": ["a", 5]}, "must be a string", "input"),
        ({"input": [5, "a"]}, "token ids must be integers", "input"),
        ({"input": [-1]}, "token ids must be integers", "input"),
        ({"input": {"text": "a"}}, "must be a string", "input"),
        ({"input": "a\0b"}, "NUL", "input"),
        ({"input": "\ud800"}, "surrogate", "input"),
        ({"input": ["a"] * 257}, "at most 256 inputs", "input"),
        ({"input": "a" * 2_000_001}, "at most 2000000 characters", "input"),
        ({"input": "a", "encoding_format": "hex"}, "'float' or 'base64'", "encoding_format"),
        ({"input": "a", "dimensions": 0}, "greater than or equal to 1", "dimensions"),
        ({"input": "a", "dimensions": WIDTH + 1}, f"vectors have {WIDTH}", "dimensions"),
        ({"input": "a", "dimensions": "8"}, "valid integer", "dimensions"),
        ({"input": "a", "timeout": 0}, "greater than 0", "timeout"),
    ],
)
@pytest.mark.parametrize("model", ["onnx-bert", "gguf-bert"])
def test_a_bad_body_is_refused_in_openais_words(
    agent: Agent, model: str, body: dict[str, Any], says: str, param: str
) -> None:
    sent = json.dumps({"model": model, **body}).encode()
    answer = httpx.post(
        f"{agent.base_url}/v1/embeddings",
        content=sent,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert says in error["message"]


@pytest.mark.parametrize("model", MODELS)
def test_a_token_id_that_the_model_does_not_have_is_refused(client: OpenAI, model: str) -> None:
    with pytest.raises(BadRequestError, match="outside the vocabulary"):
        embed(client, model, [[5, 2**31 - 1]])


def test_a_model_is_told_apart_by_what_it_makes(agent: Agent, client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="magika makes no embeddings"):
        embed(client, "magika", "text")
    for ask in (
        lambda: client.chat.completions.create(
            model="gguf-bert", messages=[{"role": "user", "content": "Hi"}]
        ),
        lambda: client.completions.create(model="gguf-bert", prompt="Hi"),
    ):
        with pytest.raises(BadRequestError, match="makes embeddings alone"):
            ask()
    body = {"model": "nope", "input": "a"}
    assert httpx.post(f"{agent.base_url}/v1/embeddings", json=body).status_code == 404


def test_a_text_generator_writes_the_same_beside_embeddings(client: OpenAI) -> None:
    def write() -> str:
        answer = client.completions.create(
            model="smollm", prompt="An edge device is", max_tokens=16, temperature=0
        )
        return answer.choices[0].text

    quiet = write()
    stop = threading.Event()

    def load() -> int:
        done = 0
        while not stop.is_set():
            embed(client, "smollm", [f"{text} {done}" for text in TEXTS])
            done += 1
        return done

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(load)
        try:
            busy = [write(), write()]
        finally:
            stop.set()
        assert working.result(), "nothing was embedded beside it: the test tests nothing"
    assert busy == [quiet] * 2


def test_many_at_once_are_each_answered_right(client: OpenAI, reference: Reference) -> None:
    def one(at: int) -> bool:
        model, text = MODELS[at % 2], TEXTS[at % len(TEXTS)]
        return near(embed(client, model, text), [wanted[model, text]])

    wanted = {(model, text): reference.vector(model, text) for model in MODELS[:2] for text in TEXTS}
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(64)))


# The pipeline by the Open Inference Protocol.


def texts(values: Sequence[bytes]) -> list[triton.InferInput]:
    one = triton.InferInput("text", [len(values)], "BYTES")
    one.set_data_from_numpy(np.array(values, object))
    return [one]


def test_a_pipeline_takes_and_gives_tensors(agent: Agent, client: OpenAI) -> None:
    oip = triton.InferenceServerClient(f"127.0.0.1:{agent.port}", network_timeout=60.0)
    about = oip.get_model_metadata("onnx-bert")
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert about["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": [-1, WIDTH]},
        {"name": "tokens", "datatype": "INT64", "shape": [-1]},
    ]
    found = oip.infer("onnx-bert", texts([text.encode() for text in (*TEXTS, "dog " * 99)]))
    assert near(list(found.as_numpy("embedding")[:-1]), embed(client, "onnx-bert", TEXTS))
    assert found.as_numpy("tokens")[-1] == 101  # all are counted, though the end was cut off


def test_a_bad_text_fails_alone(agent: Agent, client: OpenAI) -> None:
    def ask(text: bytes) -> int:
        length = len(text).to_bytes(4, "little")
        size = {"binary_data_size": len(text) + 4}
        one = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": size}
        head = json.dumps({"inputs": [one]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        url = f"{agent.base_url}/v2/models/onnx-bert/infer"
        return httpx.post(url, content=head + length + text, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, [b"caf\xe9" if at % 5 == 0 else b"dog" for at in range(40)]))
    assert found == [400 if at % 5 == 0 else 200 for at in range(40)]
