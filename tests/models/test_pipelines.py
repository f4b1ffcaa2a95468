"""What a model's folder says of its pipeline, and that what cannot be followed is refused, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadFile
from models.onnx import Header, TensorSpec
from models.pipelines.derive import derive
from models.pipelines.table import ImageClassification, TextEmbedding

IDS = TensorSpec("input_ids", "INT64", (None, None))
MASK = TensorSpec("attention_mask", "INT64", (None, None))
TOKENS = TensorSpec("last_hidden_state", "FP32", (None, None, 384))
ENCODER = Header(8, {"": 17}, (IDS, MASK), (TOKENS,), ())
PICTURES = TensorSpec("pixel_values", "FP32", (None, 3, 224, 224))
CLASSIFIER = Header(8, {"": 17}, (PICTURES,), (TensorSpec("logits", "FP32", (None, 1000)),), ())


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [{"idx": at, "type": f"sentence_transformers.models.{kind}"} for at, kind in enumerate(kinds)]


SENTENCES: dict[str, Any] = {
    "modules.json": modules("Transformer", "Pooling", "Normalize"),
    "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "config.json": {"hidden_size": 384, "max_position_embeddings": 512, "pad_token_id": 1},
    "tokenizer.json": {},
}
VISION: dict[str, Any] = {
    "preprocessor_config.json": {
        "do_normalize": True, "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
    },
    "config.json": {"architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}},
}  # fmt: skip


def lay(root: Path, files: dict[str, Any]) -> dict[str, Path]:
    found = {}
    for name, value in files.items():
        found[name] = root / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_text(value if isinstance(value, str) else json.dumps(value))
    return found


def test_the_files_of_sentence_transformers_say_what_is_to_be_done(tmp_path: Path) -> None:
    found = derive(lay(tmp_path, SENTENCES), ENCODER)
    assert found == TextEmbedding(
        kind="text-embedding", max_tokens=256, pooling="mean", normalise=True, pad_id=1, dimensions=384
    )
    assert found.outputs[0] == TensorSpec("embedding", "FP32", (None, 384))


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, "pooling", "cls"),
        ({"1_Pooling/config.json": {"pooling_mode_lasttoken": True}}, "pooling", "last"),
        ({"1_Pooling/config.json": {"pooling_mode": "mean"}}, "pooling", "mean"),
        ({"modules.json": modules("Transformer", "Pooling")}, "normalise", False),
        ({"sentence_bert_config.json": {}}, "max_tokens", 512),
        ({"sentence_bert_config.json": {"max_seq_length": 8192}}, "max_tokens", 512),
        (
            {"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 128}},
            "max_tokens",
            128,
        ),
        ({"sentence_bert_config.json": {}, "config.json": {"pad_token_id": None}}, "max_tokens", 512),
        ({"config.json": {"hidden_size": 9}}, "dimensions", 384),  # the model's own file knows better
    ],
)
def test_each_of_them_counts(tmp_path: Path, changes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(derive(lay(tmp_path, SENTENCES | changes), ENCODER), field) == value


def test_the_files_of_an_image_classifier_say_what_is_to_be_done(tmp_path: Path) -> None:
    assert derive(lay(tmp_path, VISION), CLASSIFIER) == ImageClassification(
        kind="image-classification", size=(224, 224), resample="bicubic", mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25), labels="config.json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "size", "shortest"),
    [
        ("ViTFeatureExtractor", (224, 224), None),
        ("CLIPImageProcessorFast", None, 224),
        ("", (224, 224), None),
    ],
)
def test_a_size_of_one_number_means_what_its_processor_makes_of_it(
    tmp_path: Path, processor: str, size: tuple[int, int] | None, shortest: int | None
) -> None:
    changes = {"size": 224, "image_processor_type": processor, "do_center_crop": True, "crop_size": 224}
    said = VISION["preprocessor_config.json"] | changes
    found = derive(lay(tmp_path, VISION | {"preprocessor_config.json": said}), CLASSIFIER)
    assert isinstance(found, ImageClassification)
    assert (found.size, found.shortest, found.crop) == (size, shortest, (224, 224))


@pytest.mark.parametrize("made", [["ViTModel"], "ViTForImageClassification", None])
def test_a_model_of_pictures_that_is_no_classifier_has_no_pipeline(tmp_path: Path, made: Any) -> None:
    config = VISION["config.json"] | {"architectures": made}
    assert derive(lay(tmp_path, VISION | {"config.json": config}), CLASSIFIER) is None


@pytest.mark.parametrize("left_out", ["modules.json"])
def test_a_folder_that_says_nothing_has_no_pipeline(tmp_path: Path, left_out: str) -> None:
    files = {name: value for name, value in SENTENCES.items() if name != left_out}
    assert derive(lay(tmp_path, files), ENCODER) is None
    assert derive({}, ENCODER) is None


def test_a_pipeline_toml_of_the_user_counts_before_all_else(tmp_path: Path) -> None:
    own = 'kind = "text-embedding"\npooling = "last"\nmax_tokens = 64\nnormalise = false'
    found = derive(lay(tmp_path, SENTENCES | {"pipeline.toml": own}), ENCODER)
    assert isinstance(found, TextEmbedding)
    assert (found.pooling, found.max_tokens, found.normalise) == ("last", 64, False)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"modules.json": modules("Transformer", "Pooling", "Dense")},
            "step 'Dense', which is not supported",
        ),
        ({"modules.json": {}}, "not a list"),
        ({"modules.json": [1]}, "not a list of objects"),
        ({"modules.json": "{"}, "modules.json is not JSON"),
        ({"modules.json": "[" * 100_000}, "modules.json is not JSON"),
        ({"modules.json": " " * (4 * 1024 * 1024 + 1)}, "more than 4194304 bytes"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "mean, cls or last can be done"),
        (
            {"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "mean, cls or last can be done",
        ),
        ({"1_Pooling/config.json": {}}, "asks for none"),
        ({"config.json": []}, r"config\.json is not an object"),
        ({"config.json": {"hidden_size": "wide"}}, "say of dimensions"),
        ({"config.json": {"pad_token_id": -5}}, "say of pad_id"),
        ({"sentence_bert_config.json": {"max_seq_length": 1}}, "say of max_tokens"),
        ({"pipeline.toml": "kind ="}, r"pipeline\.toml: Invalid value"),
        ({"pipeline.toml": 'kind = "shell"'}, r"pipeline\.toml: .*shell"),
        ({"pipeline.toml": 'kind = "text-embedding"\npool = "mean"'}, "pool: Extra inputs"),
        (
            {"pipeline.toml": 'kind = "text-embedding"\ntokenizer = "../t"'},
            "needs '../t', which is not among",
        ),
        ({"pipeline.toml": 'kind = "image-classification"'}, "either `size` or `shortest`"),
        ({"pipeline.toml": 'kind = "image-classification"\nsize = [1, 99999]'}, "less than or equal to 4096"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    with pytest.raises(BadFile, match=says):
        derive(lay(tmp_path, SENTENCES | files), ENCODER)


def test_texts_need_a_tokenizer(tmp_path: Path) -> None:
    files = {name: value for name, value in SENTENCES.items() if name != "tokenizer.json"}
    with pytest.raises(BadFile, match=r"need a tokenizer\.json"):
        derive(lay(tmp_path, files), ENCODER)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"crop_pct": 0.9}, "'crop_pct', which is not supported"),
        ({"do_flip_channel_order": True}, "'do_flip_channel_order', which is not"),
        ({"image_processor_type": "MobileViTImageProcessor"}, "'do_flip_channel_order', which is not"),
        ({"rescale_offset": True}, "'rescale_offset', which is not supported"),
        ({"include_top": True}, "'include_top', which is not supported"),
        ({"feature_extractor_type": "LevitFeatureExtractor"}, "Levit's way to resize"),
        ({"do_resize": False}, "'do_resize' to be off"),
        ({"image_std": [1, 1, 0]}, "must not have a 0"),
        ({"image_mean": [1]}, "cannot be followed"),
        ({"resample": 99}, "cannot be followed"),
        ({"size": {}}, "cannot be followed"),
        ({"size": "large"}, "cannot be followed"),
        ({"size": {"shortest_edge": 224}}, "give `crop`"),
    ],
)
def test_a_preprocessing_that_cannot_be_done_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    said = VISION["preprocessor_config.json"] | changes
    with pytest.raises(BadFile, match=says):
        derive(lay(tmp_path, VISION | {"preprocessor_config.json": said}), CLASSIFIER)


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ((MASK,), (TOKENS,), "the model takes attention_mask"),
        ((IDS, TensorSpec("audio", "FP32", (None, None))), (TOKENS,), "takes audio, input_ids"),
        ((TensorSpec("input_ids", "FP32", (None, None)),), (TOKENS,), "must be whole numbers"),
        ((IDS,), (TensorSpec("logits", "INT64", (None, None)),), "no output of vectors"),
    ],
)
def test_a_model_that_does_not_fit_its_pipeline_is_refused(
    tmp_path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], says: str
) -> None:
    with pytest.raises(BadFile, match=says):
        derive(lay(tmp_path, SENTENCES), Header(8, {"": 17}, inputs, outputs, ()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(name=st.sampled_from([*SENTENCES, *VISION]), key=st.text(max_size=9), value=JSON, whole=st.booleans())
def test_whatever_stands_in_a_file_is_a_pipeline_none_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, key: str, value: Any, whole: bool
) -> None:
    both = SENTENCES | VISION
    known = both[name]
    keys = list(known) if isinstance(known, dict) else []
    at = keys[len(key) % len(keys)] if keys else key
    files = both | {name: value if whole or not keys else known | {at: value}}
    for header in (ENCODER, CLASSIFIER):
        for left_out in ("", "modules.json"):
            chosen = {file: content for file, content in files.items() if file != left_out}
            try:
                derive(lay(tmp_path_factory.getbasetemp() / "fuzz", chosen), header)
            except BadFile:
                continue
