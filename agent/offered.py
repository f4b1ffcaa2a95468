"""A Version as it is offered to callers: its name, its chat template, and what its Worker says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.engines.engine import EngineInfo, TensorInfo
from models import onnx
from models.gguf import Header
from models.pipelines.table import Pipeline, TextEmbedding
from models.remote import Remote


@dataclass(frozen=True, slots=True)
class Offered:
    name: str
    version: str
    path: str
    size: int  # bytes
    created: int  # unix seconds, when it came to the shelf
    template: str | None = None  # the chat template, Jinja; None: a base model
    tokens: Mapping[str, str] = field(default_factory=dict)  # "bos_token", "eos_token": for the template
    trained_context: int | None = None  # tokens
    header: Header | None = field(default=None, repr=False)
    remote: Remote | None = None  # of a Model that another server runs
    tensors: onnx.Header | None = None  # of an ONNX file, or those of its pipeline, if it has one
    pipeline: Pipeline | None = None
    folder: str = ""  # where its files lie by their names, if there are several
    info: EngineInfo | TensorInfo | None = None  # None: not loaded

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer that one Sequence may have."""
        if isinstance(self.info, EngineInfo):
            return self.info.context or None
        return self.trained_context

    @property
    def makes_tensors(self) -> bool:
        """Whether it is asked by tensors, else by text."""
        return self.tensors is not None or (self.remote is not None and self.remote.engine == "triton")

    @property
    def inputs(self) -> tuple[onnx.TensorSpec, ...]:
        """Of a Model of tensors; those of a remote one are known once it is loaded."""
        known = self.tensors or (self.info if isinstance(self.info, TensorInfo) else None)
        return known.inputs if known else ()

    @property
    def outputs(self) -> tuple[onnx.TensorSpec, ...]:
        known = self.tensors or (self.info if isinstance(self.info, TensorInfo) else None)
        return known.outputs if known else ()

    @property
    def batches(self) -> bool:
        """Whether Requests can be joined along the first axis of all inputs and outputs."""
        if not self.inputs:
            return False
        return all(spec.shape[:1] == (None,) for spec in (*self.inputs, *self.outputs))

    @property
    def runners(self) -> int | None:
        """Runs at once, of a Model of tensors that is loaded."""
        return self.info.runners if isinstance(self.info, TensorInfo) else None

    @property
    def encoder(self) -> bool:
        """Whether it makes vectors of texts alone."""
        return self.header is not None and self.header.encoder

    @property
    def dimensions(self) -> int | None:
        """Of its vectors, where it makes any and that is known."""
        if isinstance(self.pipeline, TextEmbedding):
            return self.pipeline.dimensions
        if isinstance(self.info, EngineInfo) and self.info.embedding:
            return self.info.embedding.dimensions
        return self.header.embedding_length if self.header else None

    @property
    def platform(self) -> str:
        """What kind of file it is, as the Open Inference Protocol asks."""
        if self.remote is not None:
            return f"remote_{self.remote.engine}"
        return "llama_cpp_gguf" if self.tensors is None else "onnxruntime_onnx"

    def engine(self, of_gguf: str) -> str:
        """The entry point of the Engine that runs it; `of_gguf`: the one that the settings name."""
        if self.remote is not None:
            return self.remote.engine
        return of_gguf if self.tensors is None else "onnx"

    def public(self) -> dict[str, Any]:
        """For `/status`."""
        shown: dict[str, Any] = {"name": self.name, "version": self.version, "size": self.size}
        if not self.makes_tensors:
            shown["context"] = self.context
        if self.pipeline is not None:
            shown["pipeline"] = self.pipeline.kind
        if self.info:
            shown |= {"engine": self.info.engine, "device": self.info.device}
            shown["details"] = dict(self.info.details)
        if isinstance(self.info, EngineInfo):
            shown["slots"] = self.info.slots
        return shown
