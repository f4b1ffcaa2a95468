"""`cloud login`, `logout` and `whoami`: from any machine that reaches the controller."""

from __future__ import annotations

import asyncio
import getpass
import os
import ssl
import sys

import httpx

from agent.cli.cloud.client import Client
from agent.cli.cloud.device_flow import device_login
from agent.cli.cloud.ways import (
    Login,
    ask_for_token,
    keep_login,
    kept_login,
    keys_here,
    login_file,
    with_token,
)
from agent.cli.errors import CommandError, UsageError
from agent.cli.screen import err, out, print_json
from cloud_sync import identity
from cloud_sync.identity import BadIdentity
from cloud_sync.issuer import is_safe
from cloud_sync.messages import API
from cloud_sync.transports.https import fetch_ca
from cloud_sync.transports.transport import LinkError, Rejected

SECRET = "AUTOGLM_CLOUD_CLIENT_SECRET"  # noqa: S105 - the variable's name


def login(
    url: str,
    user: str | None,
    client_id: str | None,
    with_bearer: bool,
    by_device: bool,
    ca_fingerprint: str | None,
) -> None:
    url = url.rstrip("/")
    if not is_safe(url):
        raise UsageError("the controller's URL begins with https://")
    try:
        made = Login(url=url, ca=_ca(url, ca_fingerprint), access_token="")
        if by_device:
            made = device_login(made, lambda says: err.print(says, markup=False))
        else:
            made = _proven(made, user, client_id, with_bearer)
    except (httpx.HTTPError, LinkError, Rejected, ssl.SSLError) as error:
        raise CommandError(f"the controller at {url} cannot be reached: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"the answer cannot be read: {error}. Is {url} a controller?") from None
    former = kept_login()
    keep_login(made)
    try:
        me = Client().get("/me")
    except CommandError:
        keep_login(former) if former else login_file().unlink()
        raise
    err.print(f"Logged in to {url} as {me['name']}, role {me['role']}", markup=False)


def logout() -> None:
    login = kept_login()
    if login is None:
        return err.print("nobody is logged in")
    if login.refresh_token and login.token_url is None:
        try:
            with httpx.Client(verify=login.trust(), timeout=10) as client:
                client.post(f"{login.url}{API}/oauth/revoke", data={"token": login.refresh_token})
        except httpx.HTTPError as error:
            err.print(f"the controller cannot be told: {error}", markup=False)
    login_file().unlink(missing_ok=True)
    err.print(f"Logged out of {login.url}", markup=False)


def whoami(json: bool) -> None:
    client = Client()
    me = client.get("/me") | {"url": client.url}
    if kept_login() is None:
        me["ca_fingerprint"] = keys_here().authority.fingerprint
    if json:
        return print_json(me)
    for name, value in me.items():
        out.print(f"{name:<16}{value}", markup=False)


def _proven(login: Login, user: str | None, client_id: str | None, with_bearer: bool) -> Login:
    """With a token, by what the caller knows. CommandError; httpx.HTTPError."""
    if with_bearer:
        return login.model_copy(update={"access_token": secret("Token")})
    if client_id:
        told = {"client_id": client_id, "client_secret": os.environ.get(SECRET) or secret("Client secret")}
        fields = {"grant_type": "client_credentials", **told}
        return with_token(login.model_copy(update=told), ask_for_token(login.token_at, login.trust(), fields))
    if user is None:
        if not sys.stdin.isatty():
            raise UsageError(
                "who logs in? --user NAME (the password is read from standard input), or --client-id"
            )
        user = input("User: ").strip()
    fields = {"grant_type": "password", "username": user, "password": secret("Password")}
    return with_token(login, ask_for_token(login.token_at, login.trust(), fields))


def secret(what: str) -> str:
    """Typed without an echo, or a line of standard input. UsageError: nothing came."""
    given = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        raise UsageError(f"{what.lower()}: nothing came on standard input")
    return given.strip("\r\n")


def _ca(url: str, wanted: str | None) -> str | None:
    """Whom to trust for this controller, PEM; None: the system's store does. CommandError; LinkError."""
    if wanted is None and _is_known(url):
        return None
    ca = asyncio.run(fetch_ca(url))
    try:
        found = identity.fingerprint(ca)
    except BadIdentity:
        raise CommandError(f"{url} is no controller") from None
    if wanted is not None:
        if wanted.replace(":", "").lower() != found:
            raise CommandError(f"the CA of {url} has another fingerprint: {found}")
    elif not sys.stdin.isatty():
        raise CommandError(
            f"nobody here knows {url}: --ca-fingerprint, as `autoglm cloud whoami` tells it there"
        )
    else:
        err.print(f"Nobody here knows {url}. The fingerprint of its CA:\n  {found}", markup=False)
        if input("Is it the controller's? [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("not logged in")
    return identity.alone(ca).decode()  # whoever is in between may have put another beside it


def _is_known(url: str) -> bool:
    """Whether the system's store vouches for the server. httpx.HTTPError: it cannot be reached."""
    try:
        with httpx.Client(verify=ssl.create_default_context(), timeout=30) as client:
            client.get(f"{url}/healthz")
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return False
        raise
    return True
