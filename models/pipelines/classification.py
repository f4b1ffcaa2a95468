"""What the files of transformers say of an image-classification pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import BadFile
from models.onnx import Header
from models.pipelines.table import ImageClassification

SAYS, LABELS = "preprocessor_config.json", "config.json"
SAID_IN = (SAYS, LABELS)
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_NOT_SUPPORTED = ("crop_pct", "do_pad", "do_flip_channel_order", "rescale_offset")
_SHORTER = ("CLIP", "ChineseCLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer", "Bit")
"""Processors to whom a `size` of one number is the shorter edge; to all others, a square."""


def derive(said: Mapping[str, Any]) -> ImageClassification | None:
    """None: this is no folder of an image classifier."""
    says, config = said.get(SAYS), said.get(LABELS)
    if not isinstance(says, dict) or not isinstance(config, dict) or not _classifies(config):
        return None
    if unknown := _not_followed(says):
        raise BadFile(f"{SAYS} asks for {unknown}, which is not supported")
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


def _classifies(config: Mapping[str, Any]) -> bool:
    made = config.get("architectures")
    named = [str(one) for one in made] if isinstance(made, list) else []
    return any(one.endswith("ForImageClassification") for one in named) and bool(config.get("id2label"))


def _not_followed(says: Mapping[str, Any]) -> str | None:
    """What would change the result, and is not done here. Some processors do it unless told not to."""
    kind = _processor(says)
    defaults = {"do_flip_channel_order": kind == "MobileViT", "include_top": kind == "EfficientNet"}
    asked = [key for key in _NOT_SUPPORTED if says.get(key, defaults.get(key))]
    if says.get("include_top", defaults["include_top"]) and says.get("image_std") != [1, 1, 1]:
        asked.append("include_top")  # divides by `image_std` a second time
    if not says.get("do_resize", True):
        return "'do_resize' to be off"
    if kind == "Levit":
        return "Levit's way to resize"
    return repr(asked[0]) if asked else None


def _processor(says: Mapping[str, Any]) -> str:
    """The first part of the class's name, such as "ViT"; "": it is not said."""
    name = str(says.get("image_processor_type") or says.get("feature_extractor_type") or "")
    return re.sub(r"(ImageProcessor(Fast)?|FeatureExtractor)$", "", name)


def _fields(says: Mapping[str, Any]) -> dict[str, Any]:
    size = says.get("size", {})
    if isinstance(size, int):
        size = {"shortest_edge": size} if _processor(says) in _SHORTER else {"height": size, "width": size}
    shortest = size.get("shortest_edge")
    fields: dict[str, Any] = {
        "shortest": shortest,
        "size": None if shortest else (int(size["height"]), int(size["width"])),
        "resample": _RESAMPLE[says.get("resample", 2)],
        "scale": float(says.get("rescale_factor", 1 / 255)) if says.get("do_rescale", True) else 1.0,
        "labels": LABELS,
    }
    if says.get("do_center_crop"):
        crop = says.get("crop_size", size)  # a number is a square
        both = isinstance(crop, int)
        fields["crop"] = (crop, crop) if both else (int(crop["height"]), int(crop["width"]))
    if says.get("do_normalize", True):
        fields |= {"mean": tuple(says["image_mean"]), "std": tuple(says["image_std"])}
    return fields
