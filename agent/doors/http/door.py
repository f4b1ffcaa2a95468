"""The HTTP door: one FastAPI application, behind a guard on TCP and on the agent's unix socket."""

from __future__ import annotations

import asyncio

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agent import __version__
from agent.doors.http.admin import admin_routes
from agent.doors.http.errors import error_response, from_status, json_response
from agent.doors.http.guard import Guard, is_everywhere
from agent.doors.http.infer import InferRoute
from agent.doors.http.inference import inference_routes
from agent.doors.http.listen import listening
from agent.doors.http.routes import openai_routes
from agent.doors.http.schema import add_docs, documented
from agent.doors.http.wire import make_server
from agent.doors.node_face import Node
from agent.errors import AgentError, Unavailable
from agent.telemetry import CONTENT_TYPE

log = structlog.get_logger()


async def serve(node: Node) -> None:
    """Answer on TCP and on `settings.socket` until cancelled; answers that run then have a moment to end.

    Raises OSError, fit for a person, where it cannot listen.
    """
    app = InferRoute(create_app(node), node)
    with listening(node.settings) as (tcp, unix):
        servers = [
            (make_server(Guard(app, node.settings, node.telemetry, node.access)), tcp),
            (make_server(Guard(app, node.settings, node.telemetry, None)), unix),
        ]
        running = asyncio.gather(*(server.serve(sockets=[socket]) for server, socket in servers))
        host, port = tcp.getsockname()[:2]
        node.listening.set()
        log.info("listening", host=host, port=port, socket=str(node.settings.socket))
        if is_everywhere(node.settings.http_host) and node.access.is_open:
            log.warning("anybody who can reach this machine can use its models: no API keys are set")
        try:
            await asyncio.shield(running)
        finally:
            for server, _ in servers:
                server.should_exit = True
            await running


def create_app(node: Node) -> FastAPI:
    app = FastAPI(
        title="Open-AutoGLM Edge",
        version=__version__,
        description="Quantised models of this node, by OpenAI's protocol.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.include_router(openai_routes(node))
    app.include_router(admin_routes(node))
    app.include_router(inference_routes(node))
    _add_node_routes(app, node)
    add_docs(app)
    app.add_exception_handler(AgentError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(Exception, _broken)
    return app


def _add_node_routes(app: FastAPI, node: Node) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["Node"], **documented(None, "It does."))
    async def healthz() -> Response:
        """Whether the agent lives."""
        return json_response({"status": "ok"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["Node"], **documented(None, "A model is ready."))
    async def readyz() -> Response:
        """Whether a model is ready to answer; 503 says why not."""
        ready, reason = node.serving.ready()
        if not ready:
            raise Unavailable(reason, retry_after=2)
        return json_response({"status": "ready"})

    @app.get("/metrics", tags=["Node"], **documented(None, "Metrics.", "text/plain"))
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(node.telemetry.render(), media_type=CONTENT_TYPE)

    @app.get("/status", tags=["Node"], **documented(None, "The status."))
    async def status() -> Response:
        """The node, its models, queue and Workers, and the settings in force."""
        return json_response(node.status())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(status_code=307, headers={"location": "/docs"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AgentError)  # noqa: S101 - for the type checker: it is registered for that
    return error_response(error, request.url.path)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    told = from_status(error.status_code, request.url.path, request.method, str(error.detail))
    return error_response(told, request.url.path, dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    """The caller learns nothing but the id, by which the log has the traceback."""
    told = AgentError(f"Something went wrong inside the node ({request.state.request_id}).")
    return error_response(told, request.url.path)
