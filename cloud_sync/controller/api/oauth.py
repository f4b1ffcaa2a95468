"""`/api/v1/oauth/...`: the token endpoint (RFC 6749) and what finds it. Its refusals have OAuth's shape."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from cloud_sync.controller import tokens
from cloud_sync.controller.access import address
from cloud_sync.controller.core import Controller
from cloud_sync.controller.errors import Refused, TooMany, Unauthorised
from cloud_sync.controller.logins import Asked, Granted
from cloud_sync.messages import API

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 20
_TEXT = {"type": "string"}
_FIELDS = (
    "grant_type", "username", "password", "refresh_token", "client_id", "client_secret", "scope", "audience",
)  # fmt: skip
_FAILURE = {"description": "OAuth's `error` and `error_description`."}


@dataclass(frozen=True, slots=True)
class Form:
    """What was posted, and the client's name and secret, from the header or from fields."""

    fields: dict[str, str]
    client: str
    secret: str

    def needs(self, name: str) -> str:
        """Refused."""
        if not self.fields.get(name):
            raise Refused("invalid_request", f"{name} is missing")
        return self.fields[name]


class OtherIssuer(BaseModel):
    """Empty: there is none."""

    issuer: str
    client_id: str
    scope: str


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=f"{API}/oauth", tags=["OAuth 2.0"])

    @router.post(
        "/token", openapi_extra=_form(*_FIELDS), responses={400: _FAILURE, 401: _FAILURE, 429: _FAILURE}
    )
    async def token(request: Request) -> Response:
        """A token, by `client_credentials`, `password` or `refresh_token`."""
        try:
            return _granted(await _grant(controller, await _read(request), address(request)))
        except Refused as error:
            return _refused(error)

    @router.post("/revoke", response_class=Response, openapi_extra=_form("token"), responses={400: _FAILURE})
    async def revoke(request: Request) -> Response:
        """End a login by its refresh token (RFC 7009)."""
        try:
            await controller.logins.revoke((await _read(request)).needs("token"), address(request))
        except Refused as error:
            return _refused(error)
        return Response(status_code=200)

    @router.get("/jwks")
    async def jwks() -> dict[str, list[dict[str, str]]]:
        """The key that verifies the controller's tokens (RFC 7517)."""
        return {"keys": [tokens.public_jwk(controller.keys.signing)]}

    @router.get("/issuer")
    async def issuer() -> OtherIssuer:
        """The OpenID Connect issuer whose tokens count too, for command lines that log in there."""
        said = controller.settings
        return OtherIssuer(issuer=said.oidc_issuer, client_id=said.oidc_client_id, scope=said.oidc_scope)

    return router


def metadata(controller: Controller) -> APIRouter:
    """Where discovery looks: RFC 8414, and OpenID Connect's name for it."""
    router, base = APIRouter(tags=["OAuth 2.0"]), f"{controller.settings.issuer}{API}/oauth"

    @router.get("/.well-known/oauth-authorization-server")
    @router.get("/.well-known/openid-configuration")
    async def about() -> dict[str, Any]:
        """What the issuer of tokens is, has and can."""
        return {
            "issuer": controller.settings.issuer,
            "token_endpoint": f"{base}/token",
            "revocation_endpoint": f"{base}/revoke",
            "jwks_uri": f"{base}/jwks",
            "grant_types_supported": ["client_credentials", "password", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "response_types_supported": [],
            "scopes_supported": list(tokens.RANK),
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [tokens.ALGORITHM],
        }

    return router


async def _grant(controller: Controller, form: Form, address: str) -> Granted:
    logins = controller.logins
    asked = Asked(form.fields.get("scope", ""), form.fields.get("audience", ""))
    match form.needs("grant_type"):
        case "client_credentials":
            if not form.client:
                raise Unauthorised("invalid_client", "the client's name and secret are missing")
            return await logins.by_secret(form.client, form.secret, address, asked)
        case "password":
            return await logins.by_password(form.needs("username"), form.needs("password"), address, asked)
        case "refresh_token":
            return await logins.by_refresh(form.needs("refresh_token"), address, asked)
        case _:
            raise Refused(
                "unsupported_grant_type", "client_credentials, password and refresh_token are known"
            )


async def _read(request: Request) -> Form:
    """Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refused("invalid_request", f"the body is to be {FORM}")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise Refused("invalid_request", "the body cannot be read") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refused("invalid_request", "a field is there twice")
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return Form(fields, fields.get("client_id", ""), fields.get("client_secret", ""))
    if "client_secret" in fields:
        raise Refused("invalid_request", "the client's secret is there twice")
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise Unauthorised("invalid_client", "the Authorization header cannot be read") from None
    return Form(fields, unquote_plus(name), unquote_plus(secret))


def _granted(granted: Granted) -> Response:
    body = {
        "access_token": granted.access_token,
        "token_type": "Bearer",
        "expires_in": int(granted.expires_in),
        "scope": granted.scope,
    }
    if granted.refresh_token:
        body["refresh_token"] = granted.refresh_token
    return JSONResponse(body, headers={"cache-control": "no-store", "pragma": "no-cache"})


def _refused(error: Refused) -> Response:
    headers = {"cache-control": "no-store"}
    status = 400
    if isinstance(error, TooMany):
        status, headers["retry-after"] = 429, str(math.ceil(error.retry_after))
    elif error.code == "invalid_client":
        status, headers["www-authenticate"] = 401, 'Basic realm="autoglm"'
    return JSONResponse({"error": error.code, "error_description": error.message}, status, headers)


def _form(*fields: str) -> dict[str, Any]:
    """For the OpenAPI document: these fields of a form."""
    schema = {"type": "object", "properties": dict.fromkeys(fields, _TEXT), "required": [fields[0]]}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}
