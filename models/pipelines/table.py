"""The pipelines that a Manifest may name, or a `pipeline.toml`: a small table with a `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from models.onnx import TensorSpec

MAX_TOKENS = 131_072
MAX_SIDE = 4_096  # pixels

Path = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Three = tuple[float, float, float]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextEmbedding(_Table):
    """Texts to vectors: tokens, padded to the longest of the batch; the model; pooling under the mask.

    Of a text of more than `max_tokens` the end is cut off; special tokens stay.
    """

    kind: Literal["text-embedding"]
    tokenizer: Path = "tokenizer.json"  # of Hugging Face's tokenizers library
    max_tokens: int = Field(default=512, ge=4, le=MAX_TOKENS)
    pooling: Literal["mean", "cls", "last"] = "mean"
    normalise: bool = True  # to the length 1
    pad_id: int = Field(default=0, ge=0, lt=2**31)
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)  # of a vector; None: the model's file says

    @property
    def files(self) -> tuple[str, ...]:
        """Of the Version, beside the model."""
        return (self.tokenizer,)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("text", "BYTES", (None,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """`tokens` counts those of the whole text, also where its end was cut off."""
        vectors = TensorSpec("embedding", "FP32", (None, self.dimensions))
        return (vectors, TensorSpec("tokens", "INT64", (None,)))


class ImageClassification(_Table):
    """PNG or JPEG pictures to their likeliest labels."""

    kind: Literal["image-classification"]
    shortest: Side | None = None  # resize so that the shorter side has so many pixels
    size: tuple[Side, Side] | None = None  # height and width to resize to, whatever the shape was
    crop: tuple[Side, Side] | None = None  # height and width of the middle that is kept
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: float = 1 / 255  # of a pixel's value, before mean and std
    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    softmax: bool = True  # the model gives logits
    top_k: int = Field(default=5, ge=1, le=1_000)
    labels: Annotated[str, StringConstraints(max_length=255)] = ""
    """A file: JSON with `id2label`, or a label a line. "": labels are numbers."""

    @model_validator(mode="after")
    def _has_one_size(self) -> ImageClassification:
        if (self.size is None) == (self.shortest is None):
            raise ValueError("give either `size` or `shortest`")
        if self.size is None and self.crop is None:
            raise ValueError("with `shortest`, give `crop`: the model needs pictures of one size")
        if 0 in self.std:
            raise ValueError("`std` must not have a 0")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        return (self.labels,) if self.labels else ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("image", "BYTES", (None,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        labels, scores = ("label", "BYTES"), ("score", "FP32")
        return tuple(TensorSpec(name, kind, (None, None)) for name, kind in (labels, scores))


Pipeline = Annotated[TextEmbedding | ImageClassification, Field(discriminator="kind")]
