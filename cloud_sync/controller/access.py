"""Who asks: a node by its certificate, an operator by a bearer token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from cloud_sync.controller import tokens
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.errors import Forbidden, Unauthorised
from cloud_sync.controller.wire import CERTIFICATE
from cloud_sync.identity import Authority, BadIdentity, Holder


def address(request: Request) -> str:
    """Where it comes from; through a tunnel it has no address."""
    return request.client.host if request.client else "mqtt"


class Access:
    """`clock`: see Store.now."""

    def __init__(self, authority: Authority, signing: bytes) -> None:
        self._authority, self._signing = authority, signing

    def holder(self, request: Request, now: float) -> Holder:
        """Unauthorised: no certificate of this controller's, or one that is over."""
        certificate = request.scope.get("state", {}).get(CERTIFICATE)
        if not certificate:
            raise Unauthorised("no_certificate", "only a node's certificate opens this: `autoglm join`")
        try:
            holder = self._authority.holder(certificate)
        except BadIdentity as error:
            raise Unauthorised("unknown_certificate", str(error)) from None
        if now > holder.not_after:
            raise Unauthorised("certificate_expired", "this certificate is over: renew it")
        return holder

    def operator(self, request: Request, role: tokens.Role) -> Actor:
        """Unauthorised; Forbidden: it takes another role."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthorised("no_token", "this needs a bearer token: `autoglm cloud login`")
        claims = tokens.verified(self._signing, token)
        if tokens.rank(claims) < tokens.RANK[role]:
            raise Forbidden("not_allowed", f"this needs the role {role}")
        return Actor(str(claims["sub"]), address(request), role)


def _needs(role: tokens.Role) -> object:
    def find(request: Request) -> Actor:
        access: Access = request.app.state.access
        return access.operator(request, role)

    return Depends(find)


def _holder(request: Request) -> Holder:
    access: Access = request.app.state.access
    return access.holder(request, request.app.state.store.now())


Viewer = Annotated[Actor, _needs("viewer")]
Operator = Annotated[Actor, _needs("operator")]
Admin = Annotated[Actor, _needs("admin")]
NodeHolder = Annotated[Holder, Depends(_holder)]
