"""From a Manifest's pipeline to the Engine that wraps the model's own; libraries are imported if needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agent.engines.engine import TensorEngine
from models.pipelines.table import Pipeline, TextEmbedding

_TABLE: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)


def wrapped(engine: TensorEngine, settings: Mapping[str, Any]) -> TensorEngine:
    """With `pipeline`, a Manifest's, and `folder`, where the Version's files are. EngineError."""
    if "pipeline" not in settings:
        return engine
    pipeline = _TABLE.validate_python(settings["pipeline"])
    if isinstance(pipeline, TextEmbedding):
        module = importlib.import_module("agent.engines.text_embedding")
        made: TensorEngine = module.TextEmbeddingEngine(engine, pipeline, Path(settings["folder"]))
    else:
        module = importlib.import_module("agent.engines.image_classification")
        made = module.ImageClassificationEngine(engine, pipeline, Path(settings["folder"]))
    return made
