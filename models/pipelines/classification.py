"""What the files of transformers say of an image-classification pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import BadFile
from models.onnx import Header
from models.pipelines.table import ImageClassification

SAYS, LABELS = "preprocessor_config.json", "config.json"
SAID_IN = (SAYS, LABELS)
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_NOT_SUPPORTED = ("crop_pct", "do_pad")


def derive(said: Mapping[str, Any]) -> ImageClassification | None:
    """None: this is no folder of an image classifier."""
    says, config = said.get(SAYS), said.get(LABELS)
    if not isinstance(says, dict) or not isinstance(config, dict) or not config.get("id2label"):
        return None
    if unknown := [key for key in _NOT_SUPPORTED if says.get(key)]:
        raise BadFile(f"{SAYS} asks for {unknown[0]!r}, which is not supported")
    try:
        return ImageClassification.model_validate({"kind": "image-classification", **_fields(says)})
    except (ValidationError, LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise BadFile(f"{SAYS} cannot be followed: {str(error)[:300]}") from None


def check(header: Header) -> None:
    """BadFile: the model is no classifier of pictures."""
    if len(header.inputs) != 1 or len(header.inputs[0].shape) != 4:
        raise BadFile("image-classification needs a model with one input, a batch of pictures")
    if len(header.outputs[0].shape) != 2:
        raise BadFile("image-classification needs a model whose first output is [pictures, labels]")


def _fields(says: Mapping[str, Any]) -> dict[str, Any]:
    size = says.get("size", {})
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    fields: dict[str, Any] = {
        "shortest": shortest,
        "size": None if shortest else (int(size["height"]), int(size["width"])),
        "resample": _RESAMPLE[says.get("resample", 2)],
        "scale": float(says.get("rescale_factor", 1 / 255)) if says.get("do_rescale", True) else 1.0,
        "labels": LABELS,
    }
    if says.get("do_center_crop"):
        crop = says.get("crop_size", size)
        both = isinstance(crop, int)
        fields["crop"] = (crop, crop) if both else (int(crop["height"]), int(crop["width"]))
    if says.get("do_normalize", True):
        fields |= {"mean": tuple(says["image_mean"]), "std": tuple(says["image_std"])}
    return fields
