"""The controller's HTTP application: its routes, and how it refuses."""

from __future__ import annotations

import math

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from cloud_sync import __version__
from cloud_sync.controller.access import Access
from cloud_sync.controller.api import accounts, config, hooks, nodes_own, oauth, operators, telemetry
from cloud_sync.controller.core import Controller
from cloud_sync.controller.counted import Counted
from cloud_sync.controller.errors import Refused, TooMany
from cloud_sync.controller.guard import Guard
from cloud_sync.controller.proxy import BehindProxy
from cloud_sync.messages import Problem

CODES = {413: "too_large"}
log = structlog.get_logger()


class Refusal(BaseModel):
    error: Problem


def create_app(controller: Controller) -> ASGIApp:
    app = FastAPIOffline(
        title="Open-AutoGLM Edge controller",
        version=__version__,
        redirect_slashes=False,
        redoc_url=None,
        responses={"4XX": {"model": Refusal, "description": "Refused: `code` is for programs."}},
    )
    app.state.access = Access(
        controller.keys.authority, controller.keys.signing, controller.accounts, controller.foreign
    )
    app.state.store = controller.store
    app.state.answers = controller.answers
    app.include_router(nodes_own.routes(controller))
    app.include_router(operators.routes(controller))
    app.include_router(config.routes(controller))
    app.include_router(telemetry.node_routes(controller))
    app.include_router(telemetry.operator_routes(controller))
    app.include_router(telemetry.metrics_routes(controller))
    app.include_router(accounts.routes(controller))
    app.include_router(oauth.routes(controller))
    app.include_router(oauth.metadata(controller))
    app.include_router(hooks.routes(controller))

    @app.get("/healthz", tags=["Controller"])
    async def healthz() -> dict[str, str]:
        """Whether it lives."""
        return {"status": "ok"}

    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    for kind in (DBAPIError, PoolTimeout, OSError):
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(Exception, _broken)
    settings = controller.settings
    guarded = Counted(Guard(app, settings.max_body_bytes), controller.telemetry.counts)
    return BehindProxy(guarded, settings.proxies, settings.certificate_header)


def _answer(status: int, code: str, message: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 - for the type checker: it is registered for that
    answer = _answer(error.status, error.code, error.message)
    if isinstance(error, TooMany):
        answer.headers["retry-after"] = str(math.ceil(error.retry_after))
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    first = error.errors()[0]
    where = ".".join(str(one) for one in first["loc"][1:]) or str(first["loc"][0])
    return _answer(422, "invalid", f"{where}: {first['msg']}")


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    return _answer(error.status_code, CODES.get(error.status_code, "http"), str(error.detail))


async def _unavailable(request: Request, error: Exception) -> Response:
    """The disk is full, PostgreSQL is away: nothing was changed, and it may be tried again."""
    log.error("the database did not take it", path=request.url.path, reason=str(error)[:500])
    return _answer(503, "database_unavailable", "the database cannot take it now: try again later")


async def _broken(request: Request, error: Exception) -> Response:
    return _answer(500, "internal", "something went wrong inside the controller: its log says what")
