"""The pipeline `image-classification` around an Engine of tensors: pictures to their likeliest labels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.engines.engine import EngineError, TensorEngine, TensorInfo
from agent.engines.tensors import Array, dtype
from models.pipelines.table import ImageClassification

MOST_PIXELS = 64_000_000  # of the pictures of a run together, before they are decoded: that takes time
FORMATS = ("PNG", "JPEG")
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Pixels = NDArray[np.float32]


class ImageClassificationEngine:
    def __init__(self, inner: TensorEngine, pipeline: ImageClassification, folder: Path) -> None:
        self._inner = inner
        self._pipeline = pipeline
        self._input, self._output = inner.info.inputs[0], inner.info.outputs[0].name
        self._labels = _labels(folder / pipeline.labels) if pipeline.labels else {}
        self.info: TensorInfo = replace(inner.info, inputs=pipeline.inputs, outputs=pipeline.outputs)

    def example(self, rows: int) -> dict[str, Array]:
        written = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(written, "PNG")
        made = np.empty(rows, object)
        made[:] = [written.getvalue()] * rows
        return {"image": made}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        pictures = inputs["image"].ravel().tolist()
        if sum(map(_count, pictures)) > MOST_PIXELS:
            raise EngineError(f"the pictures of a request have more than {MOST_PIXELS} pixels together")
        pixels = [self._pixels(one) for one in pictures]
        together = len(pixels) if self._inner.info.batches else 1
        parts = [self._classify(pixels[at : at + together]) for at in range(0, len(pixels), max(together, 1))]
        scores = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._pipeline.top_k]
        labels = np.array([[self._labels.get(at, str(at)) for at in row] for row in best.tolist()], object)
        made: dict[str, Array] = {
            "label": labels.reshape(best.shape),
            "score": np.take_along_axis(scores, best, axis=1),
        }
        return [made[name] for name in outputs]

    def close(self) -> None:
        self._inner.close()

    def _classify(self, pixels: Sequence[Pixels]) -> Pixels:
        batch = np.stack(pixels).astype(dtype(self._input.datatype))
        (found,) = self._inner.run({self._input.name: batch}, [self._output])
        scores = np.asarray(found, np.float32)
        if self._pipeline.softmax:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def _pixels(self, element: bytes) -> Pixels:
        """One picture as the model wants it. EngineError: it is none."""
        with _opened(element) as image:
            fitted = self._fit(image)
        pipeline = self._pipeline
        values = np.asarray(fitted, np.float32) * pipeline.scale
        mean, std = (np.array(one, np.float32) for one in (pipeline.mean, pipeline.std))
        shifted: Pixels = (values - mean) / std
        return shifted.transpose(2, 0, 1) if pipeline.layout == "NCHW" else shifted

    def _fit(self, image: Image.Image) -> Image.Image:
        pipeline = self._pipeline
        height, width = pipeline.size or _scaled(image, pipeline.shortest or 1)
        image.draft(None, (2 * width, 2 * height))  # a JPEG need not be decoded much larger
        image = image.convert("RGB").resize((width, height), _RESAMPLE[pipeline.resample])
        if pipeline.crop is None:
            return image
        tall, wide = pipeline.crop
        left, top = (width - wide) // 2, (height - tall) // 2
        return image.crop((left, top, left + wide, top + tall))  # black where it is smaller


@contextmanager
def _opened(element: bytes) -> Iterator[Image.Image]:
    """Its header is read; the rest where it is looked at."""
    try:
        with Image.open(io.BytesIO(element), formats=FORMATS) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EngineError(f"an image is no whole PNG or JPEG: {str(error)[:100]}") from None


def _count(element: bytes) -> int:
    """Of its pixels."""
    with _opened(element) as image:
        return image.width * image.height


def _scaled(image: Image.Image, shortest: int) -> tuple[int, int]:
    """Height and width. A picture is drawn no longer than 16 times its shorter side."""
    factor = shortest / min(image.size)
    width, height = (max(1, min(int(side * factor), 16 * shortest)) for side in image.size)
    return height, width


def _labels(path: Path) -> dict[int, str]:
    try:
        text = path.read_text("utf-8")
        if path.suffix != ".json":
            return dict(enumerate(text.splitlines()))
        said: dict[str, Any] = json.loads(text)
        return {int(key): str(label) for key, label in said["id2label"].items()}
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise EngineError(f"{path.name} has no labels: {error}") from error
