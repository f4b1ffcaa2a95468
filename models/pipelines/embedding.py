"""What the files of sentence-transformers say of a text-embedding pipeline."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import BadFile
from models.onnx import Header, TensorSpec
from models.pipelines.table import TextEmbedding

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
SAID_IN = (MODULES, POOLING, "sentence_bert_config.json", "config.json", "tokenizer_config.json")
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What a model may take: tokens, where there are any, zeros, and 0, 1, 2, ..."""
VECTORS = ("sentence_embedding", "last_hidden_state", "token_embeddings")
"""Outputs, the best first: a vector for each text, or for each token."""

_POOLINGS = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
}  # fmt: skip


def derive(said: Mapping[str, Any], files: Collection[str]) -> TextEmbedding | None:
    """None: this is no folder of sentence-transformers."""
    if MODULES not in said:
        return None
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in _list(said[MODULES]) if _is_table(one)]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise BadFile(f"{MODULES} has a step {unknown[0][:40]!r}, which is not supported")
    if "tokenizer.json" not in files:
        raise BadFile("its texts need a tokenizer.json, of Hugging Face's tokenizers library")
    config, bert = _table(said, "config.json"), _table(said, "sentence_bert_config.json")
    try:
        return TextEmbedding(
            kind="text-embedding",
            pooling=_pooling(_table(said, POOLING)) if "Pooling" in kinds else "mean",  # type: ignore[arg-type]
            normalise="Normalize" in kinds,
            max_tokens=_max_tokens(bert, _table(said, "tokenizer_config.json"), config),
            pad_id=config.get("pad_token_id") or 0,
            dimensions=config.get("hidden_size"),
        )
    except ValidationError as error:
        one = error.errors(include_url=False, include_input=False)[0]
        raise BadFile(f"its files say of {one['loc'][0]}: {one['msg']}") from None


def fitted(pipeline: TextEmbedding, header: Header) -> TextEmbedding:
    """With what the model's own file says. BadFile: they do not go together."""
    names = {spec.name for spec in header.inputs}
    if "input_ids" not in names or not names <= set(INPUTS):
        raise BadFile(f"the model takes {', '.join(sorted(names))[:200]}; text-embedding gives {INPUTS}")
    if any(spec.datatype not in ("INT64", "INT32") or len(spec.shape) != 2 for spec in header.inputs):
        raise BadFile("the model's inputs must be whole numbers, [texts, tokens]")
    width = vectors(header.outputs).shape[-1]
    return pipeline.model_copy(update={"dimensions": width or pipeline.dimensions})


def vectors(outputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The output that is used: of rank 2, one vector a text; of rank 3, one a token. BadFile: none can be."""
    named = sorted(outputs, key=lambda one: VECTORS.index(one.name) if one.name in VECTORS else len(VECTORS))
    for one in named:
        if one.datatype in ("FP32", "FP16") and len(one.shape) in (2, 3):
            return one
    raise BadFile("the model has no output of vectors, [texts, width] or [texts, tokens, width]")


def _pooling(config: Mapping[str, Any]) -> str:
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if isinstance(mode := config.get("pooling_mode"), str):
        modes = [next((key for key, short in _POOLINGS.items() if short in mode), mode)]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise BadFile(f"{POOLING} asks for {', '.join(modes)[:100] or 'none'}; mean, cls or last can be done")
    return _POOLINGS[modes[0]]


def _max_tokens(*configs: Mapping[str, Any]) -> int:
    """The first that says; never more than the model has positions for."""
    bert, tokenizer, config = configs
    positions = config.get("max_position_embeddings")
    said = [bert.get("max_seq_length"), tokenizer.get("model_max_length"), positions]
    whole = [one for one in said if isinstance(one, int) and 0 < one < 1_000_000]
    most = positions if isinstance(positions, int) and positions > 0 else 512
    return min(whole[0] if whole else 512, most)


def _table(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = said.get(name, {})
    if not isinstance(value, dict):
        raise BadFile(f"{name} is not an object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadFile(f"{MODULES} is not a list")
    return value


def _is_table(value: Any) -> bool:
    if not isinstance(value, dict):
        raise BadFile(f"{MODULES} is not a list of objects")
    return True
