"""`/api/v1/...` for operators' own accounts: users, OAuth clients, and who is logged in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, StringConstraints

from cloud_sync.controller.access import Admin, Viewer, address
from cloud_sync.controller.accounts import CLIENT, OIDC, USER, AccountRow
from cloud_sync.controller.answers import AnsweredOnce
from cloud_sync.controller.core import Controller
from cloud_sync.controller.errors import Forbidden
from cloud_sync.controller.tokens import Role
from cloud_sync.messages import API

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
AnyName = Annotated[str, Path(pattern=r"^([A-Za-z0-9._@-]{1,64}|oidc:[^\x00-\x1f\x7f]{1,255})$")]
Password = Annotated[str, Field(min_length=10, max_length=1024)]


class NewUser(BaseModel):
    name: Name
    password: Password
    role: Role = "viewer"


class UserChange(BaseModel):
    """What is left out stays."""

    role: Role | None = None
    disabled: bool | None = None
    password: Password | None = None


class NewClient(BaseModel):
    name: Name
    role: Role = "viewer"


class ClientChange(BaseModel):
    """What is left out stays."""

    role: Role | None = None
    disabled: bool | None = None


class MadeClient(BaseModel):
    client_id: str
    client_secret: str


class NewPassword(BaseModel):
    current: Annotated[str, Field(max_length=1024)]
    password: Password


class Myself(BaseModel):
    name: str
    """`user:NAME`, `client:NAME`, `oidc:SUBJECT`, or `local:USER` of the controller's machine."""
    role: str


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Accounts"], route_class=AnsweredOnce)
    _add_clients(router, controller)

    @router.get("/me")
    async def me(actor: Viewer) -> Myself:
        """Who is asking."""
        return Myself(name=actor.name, role=actor.role)

    @router.post("/me/password", status_code=204)
    async def own_password(body: NewPassword, actor: Viewer, request: Request) -> None:
        """Change one's own password; every login of the account ends."""
        if not actor.name.startswith(USER):
            raise Forbidden("no_password", "only a user has a password here")
        await controller.logins.prove(actor.name, body.current, address(request))
        await controller.accounts.change(actor, actor.name, None, None, body.password)

    @router.get("/users")
    async def users(actor: Admin) -> list[AccountRow]:
        """Users by name, and those of the OpenID Connect issuer who are kept out."""
        return await controller.accounts.all(USER)

    @router.post("/users", status_code=201)
    async def new_user(body: NewUser, actor: Admin) -> None:
        """Make a user."""
        await controller.accounts.add_user(actor, body.name, body.role, body.password)

    @router.patch("/users/{name:path}", status_code=204)
    async def change_user(name: AnyName, body: UserChange, actor: Admin) -> None:
        """Change a user; `oidc:SUBJECT` may be disabled as well."""
        subject = name if name.startswith(OIDC) else USER + name
        if subject.startswith(OIDC) and (body.role or body.password):
            raise Forbidden("not_ours", "the issuer alone decides on this user's role and password")
        await controller.accounts.change(actor, subject, body.role, body.disabled, body.password)

    return router


def _add_clients(router: APIRouter, controller: Controller) -> None:
    @router.get("/clients")
    async def clients(actor: Admin) -> list[AccountRow]:
        """OAuth clients by name."""
        return await controller.accounts.all(CLIENT)

    @router.post("/clients", status_code=201)
    async def new_client(body: NewClient, actor: Admin) -> MadeClient:
        """Make an OAuth client. Its secret is shown once."""
        secret = await controller.accounts.add_client(actor, body.name, body.role)
        return MadeClient(client_id=body.name, client_secret=secret)

    @router.patch("/clients/{name}", status_code=204)
    async def change_client(name: Name, body: ClientChange, actor: Admin) -> None:
        """Change an OAuth client."""
        await controller.accounts.change(actor, CLIENT + name, body.role, body.disabled, None)
