"""HTTP's own refusals, and how any AgentError is answered."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

from agent.errors import AgentError, BadRequest, Forbidden, NotFound, Unavailable


class MethodNotAllowed(BadRequest):
    status = 405
    code = "method_not_allowed"


class BodyTimeout(BadRequest):
    status = 408
    code = "request_timeout"


class BodiesFull(Unavailable):
    code = "too_many_bodies"


class UnsupportedMedia(BadRequest):
    status = 415
    code = "unsupported_media_type"


class NotSupported(BadRequest):
    status = 501
    code = "not_supported"


class HostNotAllowed(Forbidden):
    code = "host_not_allowed"


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"


def error_object(error: AgentError) -> dict[str, Any]:
    """OpenAI's shape."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_response(error: AgentError, path: str, headers: dict[str, str] | None = None) -> Response:
    """In the shape of the protocol that `path` belongs to."""
    extra = dict(headers or {})
    body = {"error": error.message} if path.startswith("/v2") else error_object(error)
    if error.status in (429, 503):
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    return json_response(body, error.status, extra)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(body.encode("utf-8", "replace"), status, headers, media_type="application/json")


def from_status(status: int, path: str, method: str, detail: str) -> AgentError:
    """What the router or the framework refused."""
    if status == 404:
        return NotFound(f"There is nothing at {path[:200]}; /docs shows what there is.")
    if status == 405:
        return MethodNotAllowed(f"{method} is not possible at {path[:200]}.")
    return BadRequest(detail) if status < 500 else AgentError("Something went wrong inside the node.")
