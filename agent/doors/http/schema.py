"""`/docs` and `/openapi.json`. The page's scripts come with the agent: an offline node has no CDN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from agent.doors.openai.bodies import ChatBody, CompletionBody, EmbeddingBody, PullBody

_REFERENCE = "#/components/schemas/{model}"


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every error looks like this."""

    error: ErrorDetail


def documented(body: type[BaseModel] | None, answer: str, media: str = "application/json") -> dict[str, Any]:
    """What a route says of itself. Bodies are read by hand, so that their errors have OpenAI's shape."""
    said: dict[str, Any] = {
        "response_class": Response,
        "responses": {
            200: {"description": answer, "content": {media: {}}},
            "4XX": {"description": "The request must be changed, or come later.", "model": ErrorBody},
            "5XX": {"description": "The node could not do it.", "model": ErrorBody},
        },
    }
    if body is not None:
        content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=body.__name__)}}}
        said["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return said


def add_docs(app: FastAPI) -> None:
    files = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")
    app.mount("/docs/static", files)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/static/swagger-ui-bundle.js",
            swagger_css_url="/docs/static/swagger-ui.css",
            swagger_favicon_url="/docs/static/favicon.png",
        )

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app)
        return app.openapi_schema


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema(
        [(model, "validation") for model in (ChatBody, CompletionBody, EmbeddingBody, PullBody)],
        ref_template=_REFERENCE,
    )
    components = schema.setdefault("components", {})
    components["schemas"] = components.get("schemas", {}) | definitions["$defs"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{}, {"key": []}]
    return schema
