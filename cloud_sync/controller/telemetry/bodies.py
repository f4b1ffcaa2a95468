"""A batch as it comes: JSON, plain or compressed by zstd, and bounded either way."""

from __future__ import annotations

import asyncio
import io

import zstandard
from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from cloud_sync.controller.errors import Invalid
from cloud_sync.messages import Telemetry

WINDOW_BYTES = 8 << 20  # more memory is given to no decompression


async def read_batch(request: Request, most: int) -> tuple[Telemetry, int]:
    """And how many bytes came. HTTPException: 413, 415; Invalid."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("zstd", "identity"):
        raise HTTPException(415, "a batch is JSON, plain or with content-encoding zstd")
    body = await request.body()
    return await asyncio.to_thread(_parsed, body, encoding == "zstd", most), len(body)


def _parsed(body: bytes, compressed: bool, most: int) -> Telemetry:
    plain = _decompressed(body, most) if compressed else body
    if len(plain) > most:
        raise HTTPException(413, f"a batch has at most {most} bytes, decompressed")
    try:
        return Telemetry.model_validate_json(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Invalid("invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _decompressed(body: bytes, most: int) -> bytes:
    """No more than `most` + 1 bytes."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).stream_reader(
            io.BytesIO(body)
        ) as reader:
            return reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise Invalid("bad_compression", f"this is not zstd: {error}") from None
