"""Who asks: a node by its certificate, an operator by a bearer token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from cloud_sync.controller import tokens
from cloud_sync.controller.accounts import Accounts
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.errors import Forbidden, Unauthorised
from cloud_sync.controller.foreign import Foreign
from cloud_sync.controller.wire import CERTIFICATE
from cloud_sync.identity import Authority, BadIdentity, Holder


def address(request: Request) -> str:
    """Where it comes from; through a tunnel it has no address."""
    return request.client.host if request.client else "mqtt"


class Access:
    """`foreign`: operators whom another issuer knows; None: there is no other."""

    def __init__(
        self, authority: Authority, signing: bytes, accounts: Accounts, foreign: Foreign | None
    ) -> None:
        self._authority, self._signing = authority, signing
        self._accounts, self._foreign = accounts, foreign

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

    async def operator(self, request: Request, role: tokens.Role) -> Actor:
        """Unauthorised; Forbidden: it takes another role."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthorised("no_token", "this needs a bearer token: `autoglm cloud login`")
        if self._foreign and self._foreign.issued(token):
            name, has = await self._foreign.who(token, address(request))
        else:
            name, has = await self._own(token)
        if has is None or tokens.lower(has, role) != role:
            raise Forbidden("not_allowed", f"this needs the role {role}")
        return Actor(name, address(request), has)

    async def _own(self, token: str) -> tuple[str, tokens.Role | None]:
        """Of an account, the role that it has now; without one it is by who has the key itself."""
        claims = tokens.verified(self._signing, token)
        name, role = str(claims["sub"]), tokens.role(claims.get("roles"))
        if "ver" in claims and role is not None:
            role = tokens.lower(role, await self._accounts.standing(name, claims["ver"]))
        return name, role


def _needs(role: tokens.Role) -> object:
    async def find(request: Request) -> Actor:
        access: Access = request.app.state.access
        return await access.operator(request, role)

    return Depends(find)


async def _holder(request: Request) -> Holder:  # a thread for what is not would cost more than all of it
    access: Access = request.app.state.access
    return access.holder(request, request.app.state.store.now())


Viewer = Annotated[Actor, _needs("viewer")]
Operator = Annotated[Actor, _needs("operator")]
Admin = Annotated[Actor, _needs("admin")]
NodeHolder = Annotated[Holder, Depends(_holder)]
