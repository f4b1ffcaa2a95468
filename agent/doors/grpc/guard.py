"""What stands around each call: who calls, how errors are told, what is counted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
import structlog

from agent.access import Caller
from agent.doors.node_face import Node
from agent.errors import AgentError

log = structlog.get_logger()

Code = grpc.StatusCode
CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ALREADY_EXISTS,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
"""By the status that HTTP would have; others are INTERNAL."""
MOST_TEXT = 2000  # characters of a message: it travels in a header, whose size clients bound

T = TypeVar("T")


class Context(Protocol):
    """What is used of `grpc.aio.ServicerContext`, which has no types."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...
    def time_remaining(self) -> float | None:
        """Seconds until the caller waits no longer; None: it waits for ever."""

    async def read(self) -> Any:
        """The next message, as its bytes; grpc.aio.EOF: there is none."""

    async def write(self, message: Any) -> None: ...
    async def abort(
        self, code: Any, details: str, trailing_metadata: Sequence[tuple[str, str]] = ()
    ) -> NoReturn:
        """End the call so. Always raises."""


class Guard:
    """With API keys or an issuer of JWTs configured, every call of the service needs one in its
    `authorization` metadata."""

    def __init__(self, node: Node) -> None:
        self._access = node.access
        self._counters = cache(node.telemetry.grpc_requests.labels)  # by method and code
        self._log = log.bind()  # once: it costs more than the rest

    async def run(self, method: str, context: Context, work: Callable[[Caller], Awaitable[T]]) -> T:
        """The answer. An error becomes the call's status."""
        begun, code = time.monotonic(), Code.OK
        try:
            caller = await self._access.caller(_authorization(context))
            if caller.user:
                structlog.contextvars.bind_contextvars(user=caller.user, tenant=caller.tenant)
            return await work(caller)
        except AgentError as error:
            code = CODES.get(error.status, Code.INTERNAL)
            await context.abort(code, error.message[:MOST_TEXT], _metadata(error))
        except asyncio.CancelledError:  # the client went away, or its deadline passed
            code = Code.CANCELLED
            raise
        except Exception:
            log.exception("a grpc call failed", method=method)
            code = Code.INTERNAL
            await context.abort(code, "Something went wrong inside the node: its log has more.")
        finally:
            self._counters(method, code.name).inc()
            tell = self._log.info if "Infer" in method or code is Code.INTERNAL else self._log.debug
            tell("grpc request", method=method, code=code.name, seconds=round(time.monotonic() - begun, 4))


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return str(value)
    return None


def _metadata(error: AgentError) -> tuple[tuple[str, str], ...]:
    """When to come again: as HTTP says it, and as gRPC's own clients read it where they are told to retry."""
    if error.status not in (429, 503):
        return ()
    seconds = max(1, math.ceil(error.retry_after or 1))
    return ("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(1000 * seconds))
