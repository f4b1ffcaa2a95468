"""Everything that a caller can be told went wrong.

    AgentError
    |-- BadRequest             400  the caller must change the request
    |   `-- PromptTooLong      400  context_length_exceeded
    |-- Unauthorized           401
    |   `-- InvalidToken       401  a JWT that is not valid here and now
    |-- Forbidden              403
    |-- NotFound               404  unknown model or route
    |-- Conflict               409  the id is in use for another body
    |-- TooLarge               413
    |-- Overloaded             429  queue full; has retry_after
    |   `-- RateLimited        429  this caller's limit; has retry_after
    |-- Cancelled              499  the caller went away
    |-- UpstreamFailed         502  the server that runs a remote model failed, or refused this node
    |-- Unavailable            503  no model is ready; has retry_after
    |-- WorkerLost             503  the Worker died after the answer had begun
    |-- DeadlineExceeded       504  dropped, or cut, at its deadline
    `-- InternalError          500

Doors translate these into their own protocol (`status` is HTTP's, `code` is OpenAI's `error.code`).
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all; `str(error)` is a sentence fit for the caller."""

    status = 500
    code = "internal_error"
    kind = "server_error"  # OpenAI's `error.type`

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        message = _sayable(message)
        super().__init__(message)
        self.message = message
        self.param = None if param is None else _sayable(param)
        self.retry_after = retry_after  # seconds


def _sayable(text: str) -> str:
    """Callers' own text may be in it, and JSON can name half a surrogate pair, which no UTF-8 can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class BadRequest(AgentError):
    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class PromptTooLong(BadRequest):
    code = "context_length_exceeded"


class Unauthorized(AgentError):
    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class InvalidToken(Unauthorized):
    code = "invalid_token"


class Forbidden(AgentError):
    status = 403
    code = "forbidden"
    kind = "permission_error"


class NotFound(AgentError):
    status = 404
    code = "not_found"
    kind = "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(AgentError):
    status = 409
    code = "conflict"
    kind = "invalid_request_error"


class TooLarge(AgentError):
    status = 413
    code = "request_too_large"
    kind = "invalid_request_error"


class Overloaded(AgentError):
    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class RateLimited(Overloaded):
    pass


class Cancelled(AgentError):
    status = 499
    code = "cancelled"


class UpstreamFailed(AgentError):
    status = 502
    code = "upstream_failed"


class Unavailable(AgentError):
    status = 503
    code = "model_unavailable"


class WorkerLost(AgentError):
    status = 503
    code = "worker_lost"


class DeadlineExceeded(AgentError):
    status = 504
    code = "deadline_exceeded"
    kind = "timeout_error"


class InternalError(AgentError):
    pass


BY_CODE: dict[str, type[AgentError]] = {
    error.code: error
    for error in (
        BadRequest,
        PromptTooLong,
        Unauthorized,
        Forbidden,
        NotFound,
        ModelNotFound,
        Conflict,
        TooLarge,
        Overloaded,
        Cancelled,
        UpstreamFailed,
        Unavailable,
        WorkerLost,
        DeadlineExceeded,
        InternalError,
    )
}
"""How a Worker's error, which crosses the socket as its code, becomes an exception again."""
