"""OpenAI's embeddings: a body to an Embedding, and Embedded to the answer."""

from __future__ import annotations

import base64
import json
import secrets
import time
from array import array

from agent.config import Settings
from agent.doors.openai.bodies import EmbeddingBody
from agent.embedding import TOGETHER, Embedded, Embedding
from agent.errors import BadRequest, InternalError
from agent.offered import Offered
from agent.vector import SIZE, unit


def embedding(body: EmbeddingBody, settings: Settings, model: Offered | None, *, sender: str) -> Embedding:
    """`settings` are the Model's. Raises BadRequest."""
    together = min(settings.max_batch_size or TOGETHER, TOGETHER)
    most = settings.queue_requests * (together if model and model.makes_tensors else 1)
    if len(body.input) > most:
        raise BadRequest(
            f"input: {len(body.input)} in one body; this model's queue holds {most}.", param="input"
        )
    return Embedding(
        id=f"embd-{secrets.token_hex(12)}",
        model=body.model or "",
        inputs=tuple(body.input),
        together=together,
        priority=body.priority,
        deadline=None if body.timeout is None else time.monotonic() + body.timeout,
        sender=sender,
        session=f"{sender}/{body.user}" if body.user else "",
        keep_alive=body.keep_alive,
    )


def check_dimensions(body: EmbeddingBody, model: Offered | None) -> None:
    """Raises BadRequest where the model is known to have fewer."""
    if model is not None and model.dimensions is not None:
        _check(body, model.dimensions)


def answer(embedded: Embedded, body: EmbeddingBody, model: str) -> bytes:
    """The body to send. Raises BadRequest where the vectors turn out too short."""
    vectors = embedded.vectors
    if body.dimensions is not None:
        _check(body, len(vectors[0]) // SIZE)
        vectors = tuple(unit(vector[: SIZE * body.dimensions]) for vector in vectors)
    said = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": _written(vector, body)}
            for at, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
    try:
        return json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise InternalError("the model made a vector with numbers that are none") from None


def _check(body: EmbeddingBody, most: int) -> None:
    if body.dimensions is not None and body.dimensions > most:
        raise BadRequest(f"dimensions: the model's vectors have {most}.", param="dimensions")


def _written(vector: bytes, body: EmbeddingBody) -> str | list[float]:
    if body.encoding_format == "base64":
        return base64.b64encode(vector).decode()
    return array("f", vector).tolist()
