"""What the pipelines promise: the same as the model's own libraries would do, in any batch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from agent.engines.engine import EngineError, TensorEngine
from agent.engines.onnx import load
from agent.engines.text_embedding import TOKENS
from models.errors import BadFile
from models.onnx import read_header
from models.pipelines.derive import SAID_IN, derive
from tests.support.bert import POSITIONS, WIDTH, Bert

TOLERANCE = 1e-5
"""Of numbers in vectors of length 1: in a batch sums are taken in another order than alone."""
TEXTS = [
    "An edge device is small.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Temperature!",
    "",
]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def bert() -> Bert:
    return Bert()


@pytest.fixture(scope="module")
def folder(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert.write_folder(tmp_path_factory.mktemp("bert"))


def engine_of(folder: Path, model: str = "onnx/model.onnx", **changes: Any) -> TensorEngine:
    names = (*SAID_IN, "tokenizer.json", model)
    files = {name: folder / name for name in names if (folder / name).exists()}
    pipeline = derive(files, read_header(folder / model))
    assert pipeline is not None
    settings = {
        "threads": 1,
        "runners": 1,
        "pipeline": pipeline.model_dump() | changes,
        "folder": str(folder),
    }
    return load(str(folder / model), settings, lambda _: None)


def run(engine: TensorEngine, elements: Sequence[bytes]) -> list[Any]:
    values = np.empty(len(elements), object)
    values[:] = elements
    return engine.run({engine.info.inputs[0].name: values}, [spec.name for spec in engine.info.outputs])


@pytest.fixture(scope="module")
def alone(bert: Bert, folder: Path) -> Callable[[str], Floats]:
    """What onnxruntime makes of one text without padding: a vector for each token."""
    session = ort.InferenceSession(folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])

    def vectors(text: str) -> Floats:
        ids = np.array([bert.tokenizer.encode(text).ids])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found: Floats = session.run(None, given)[0][0]
        return found

    return vectors


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("pooling", "reference"),
    [
        ("mean", lambda rows: rows.mean(axis=0)),
        ("cls", lambda rows: rows[0]),
        ("last", lambda rows: rows[-1]),
    ],
)
def test_texts_of_several_lengths_together_give_what_each_gives_alone(
    folder: Path, alone: Callable[[str], Floats], pooling: str, reference: Callable[[Floats], Floats]
) -> None:
    engine = engine_of(folder, pooling=pooling)
    together, tokens = run(engine, [text.encode() for text in TEXTS])
    assert together.shape == (len(TEXTS), WIDTH)
    for at, text in enumerate(TEXTS):
        rows = alone(text)
        assert tokens[at] == len(rows)
        assert np.abs(together[at] - unit(reference(rows))).max() < TOLERANCE


def test_vectors_are_as_long_as_the_model_makes_them_where_the_pipeline_says_so(
    folder: Path, alone: Callable[[str], Floats]
) -> None:
    (vector,), _ = run(engine_of(folder, normalise=False), [TEXTS[0].encode()])
    assert np.abs(vector - alone(TEXTS[0]).mean(axis=0)).max() < 1e-4


def test_of_a_long_text_the_end_is_cut_off_and_its_tokens_are_counted_all_the_same(
    bert: Bert, folder: Path
) -> None:
    engine = engine_of(folder)
    long, most = "dog " * 100, POSITIONS // 2
    kept = "dog " * (most - 2)
    (vector, same), tokens = run(engine, [long.encode(), kept.encode()])
    assert tokens.tolist() == [102, most]
    assert np.abs(vector - same).max() < TOLERANCE


def test_token_ids_are_taken_as_they_are(bert: Bert, folder: Path) -> None:
    ids = bert.tokenizer.encode(TEXTS[0]).ids
    (vector, same), tokens = run(
        engine_of(folder), [b"\xff" + np.array(ids, "<i4").tobytes(), TEXTS[0].encode()]
    )
    assert tokens.tolist() == [len(ids)] * 2
    assert np.abs(vector - same).max() < TOLERANCE


def test_more_texts_than_run_at_once_get_each_its_own_vector(
    folder: Path, alone: Callable[[str], Floats]
) -> None:
    texts = ["dog " * (1 + at * 7 % 30) for at in range(300)]
    found, tokens = run(engine_of(folder), [text.encode() for text in texts])
    assert tokens.sum() > TOKENS
    for at in range(0, 300, 29):
        assert np.abs(found[at] - unit(alone(texts[at]).mean(axis=0))).max() < TOLERANCE


def test_a_text_without_tokens_is_refused(bert: Bert, tmp_path: Path) -> None:
    root = bert.write_folder(tmp_path / "bare")
    tokenizer = json.loads((root / "tokenizer.json").read_text())
    (root / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(EngineError, match="has no tokens"):
        run(engine_of(root, pooling="last"), [b"dog", b""])


def test_what_the_tokenizer_cannot_do_is_told(bert: Bert, tmp_path: Path) -> None:
    root = bert.write_folder(tmp_path / "strict")
    tokenizer = json.loads((root / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "[NONE]"
    (root / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(EngineError, match="the tokenizer cannot take a text"):
        run(engine_of(root), ["\u2603".encode()])


@pytest.mark.parametrize(
    ("element", "says"),
    [
        (b"caf\xe9", "not UTF-8"),
        (b"\xff\x01\x00", "a cut one"),
        (b"\xff", "is empty"),
        (b"\xff" + b"\xff" * 4, "outside the vocabulary"),
        (b"\xff\xff\xff\xff\x7f", "outside the vocabulary"),
        (b"x" * (1 << 20) + b"x", "more than 1048576 bytes"),
    ],
)
def test_what_is_no_text_is_refused(folder: Path, element: bytes, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        run(engine_of(folder), [element])


def test_the_example_of_a_trial_runs(folder: Path) -> None:
    engine = engine_of(folder)
    assert engine.run(engine.example(3), ["embedding"])[0].shape == (3, WIDTH)


def test_a_model_of_one_row_and_a_fixed_length_gives_the_same(
    bert: Bert, folder: Path, tmp_path: Path, alone: Callable[[str], Floats]
) -> None:
    root = bert.write_folder(tmp_path / "fixed")
    model = onnx.load(root / "onnx/model.onnx")
    for one in (*model.graph.input, *model.graph.output):
        for dim, size in zip(one.type.tensor_type.shape.dim, (1, 32), strict=False):
            dim.dim_value = size
    onnx.save(model, root / "onnx/model.onnx")
    found, _ = run(engine_of(root), [text.encode() for text in TEXTS])
    for at, text in enumerate(TEXTS):
        assert np.abs(found[at] - unit(alone(text).mean(axis=0))).max() < TOLERANCE


# Pictures.

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
LABELS = ["red", "green", "blue"]
CONFIG = {"architectures": ["AForImageClassification"], "id2label": dict(enumerate(LABELS))}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The score of a colour is its mean over the picture, as the model sees it."""
    root = tmp_path_factory.mktemp("classifier")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixel_values", "axes"], ["logits"], keepdims=0)],
        "colours",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), root / "m.onnx"
    )
    says = {
        "do_resize": True, "size": {"shortest_edge": 32}, "resample": 2, "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (root / "preprocessor_config.json").write_text(json.dumps(says))
    (root / "config.json").write_text(json.dumps(CONFIG))
    return root


def picture(size: tuple[int, int] = (48, 40), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def written(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, quality=95)
    return out.getvalue()


def expected(image: Image.Image) -> dict[str, float]:
    """As transformers' image processor would have it, step by step."""
    factor = 32 / min(image.size)
    small = image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BILINEAR)
    left, top = (small.width - 16) // 2, (small.height - 16) // 2
    pixels = np.asarray(small)[top : top + 16, left : left + 16] / 255
    logits = ((pixels - MEAN) / STD).mean(axis=(0, 1))
    scores = np.exp(logits) / np.exp(logits).sum()
    return dict(zip(LABELS, scores.tolist(), strict=True))


def test_pictures_get_their_likeliest_labels_first(classifier: Path) -> None:
    pictures = [picture(seed=at, size=size) for at, size in enumerate([(48, 40), (200, 33), (16, 90)])]
    labels, scores = run(engine_of(classifier, "m.onnx"), [written(one) for one in pictures])
    for at, one in enumerate(pictures):
        wanted = expected(one)
        assert labels[at].tolist() == sorted(LABELS, key=lambda label: -wanted[label])
        assert np.abs(scores[at] - [wanted[label] for label in labels[at]]).max() < TOLERANCE


def test_jpeg_and_grey_and_palette_pictures_are_pictures_too(classifier: Path) -> None:
    engine = engine_of(classifier, "m.onnx", top_k=1)
    red = Image.new("RGB", (40, 40), (250, 10, 10))
    same = [written(red, "JPEG"), written(red.convert("P")), written(red.convert("RGBA"))]
    labels, _ = run(engine, [*same, written(Image.new("L", (40, 40), 3))])
    assert labels[:3].tolist() == [["red"]] * 3
    assert labels.shape == (4, 1)


def test_a_large_jpeg_gets_the_same_labels_as_a_small_one(classifier: Path) -> None:
    large = picture((1600, 1200))
    labels, scores = run(engine_of(classifier, "m.onnx"), [written(large, "JPEG")])
    wanted = expected(large)
    assert np.abs(scores[0] - [wanted[label] for label in labels[0]]).max() < 0.01


def test_pictures_that_are_too_large_together_are_refused_before_they_are_decoded(classifier: Path) -> None:
    large = written(Image.new("1", (8_000, 4_100)))
    run(engine_of(classifier, "m.onnx"), [large])
    with pytest.raises(EngineError, match="more than 64000000 pixels together"):
        run(engine_of(classifier, "m.onnx"), [large, large])


def bomb() -> bytes:
    """A few kilobytes that would be 400 million pixels."""
    return written(Image.new("1", (20_000, 20_000)))


@pytest.mark.parametrize(
    ("element", "says"),
    [
        (lambda: b"", "no whole PNG or JPEG"),
        (lambda: b"GIF89a" + bytes(100), "no whole PNG or JPEG"),
        (lambda: written(picture(), "BMP"), "no whole PNG or JPEG"),
        (lambda: written(picture((400, 400)))[:-3000], "no whole PNG or JPEG"),
        (bomb, "pixels|no whole PNG or JPEG"),
    ],
    ids=["empty", "rubbish", "another format", "cut", "bomb"],
)
def test_what_is_no_picture_is_refused(classifier: Path, element: Callable[[], bytes], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        run(engine_of(classifier, "m.onnx"), [written(picture()), element()])


@pytest.mark.parametrize("labels", ["[]", '{"id2label": 5}', '{"id2label": {"x": "y"}}'])
def test_labels_that_are_none_are_told_at_the_load(classifier: Path, tmp_path: Path, labels: str) -> None:
    engine_of(classifier, "m.onnx")
    (tmp_path / "labels.json").write_text(labels)
    changed = {"pipeline": {"kind": "image-classification", "size": (4, 4), "labels": "labels.json"}}
    settings = {"threads": 1, "runners": 1, "folder": str(tmp_path), **changed}
    with pytest.raises(EngineError, match="has no labels"):
        load(str(classifier / "m.onnx"), settings, lambda _: None)


def test_a_tokenizer_that_is_none_is_told_at_the_load(bert: Bert, tmp_path: Path) -> None:
    root = bert.write_folder(tmp_path / "m")
    (root / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match="not a tokenizer"):
        engine_of(root)


def test_a_classifier_of_pictures_needs_a_model_of_pictures(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text('kind = "image-classification"\nsize = [8, 8]')
    with pytest.raises(BadFile, match="a batch of pictures"):
        derive({"pipeline.toml": tmp_path / "pipeline.toml"}, read_header(folder / "onnx/model.onnx"))
