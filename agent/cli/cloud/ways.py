"""Ways to the controller: as who logged in, else by the data folder of a controller on this machine."""

from __future__ import annotations

import getpass
import os
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from agent.cli.errors import CommandError
from cloud_sync.controller import tokens
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.keys import Keys, read_keys
from cloud_sync.messages import API
from cloud_sync.transports.https import pinned
from models.disk import locked, write_private

UNTOLD_S = 300.0  # that a token is taken to live where its issuer does not say
EARLY_S = 60.0  # so long before its end a token is renewed
HOW_TO_START = "Start one here: autoglm cloud serve; or log in to another: autoglm cloud login URL"


class Login(BaseModel):
    """What `cloud login` keeps, in a file for its owner's eyes alone."""

    url: str
    ca: str | None = None
    """Whom to trust alone, PEM; None: the system's store."""
    access_token: str
    expires_at: float | None = None
    """Wall time in seconds; None: not known."""
    refresh_token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    token_url: str | None = None
    """Where it is renewed; None: at the controller."""

    @property
    def token_at(self) -> str:
        return self.token_url or f"{self.url}{API}/oauth/token"

    def trust(self) -> ssl.SSLContext:
        return pinned(self.ca, None) if self.ca else ssl.create_default_context()

    def token_trust(self) -> ssl.SSLContext:
        return ssl.create_default_context() if self.token_url else self.trust()


@dataclass(frozen=True, slots=True)
class Way:
    url: str
    trust: ssl.SSLContext
    bearer: httpx.Auth
    environment: bool
    """Whether proxies that the environment names are on the way."""


def login_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "autoglm" / "cloud.json"


def kept_login() -> Login | None:
    """CommandError: it cannot be read."""
    try:
        return Login.model_validate_json(login_file().read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CommandError(f"the login in {login_file()} cannot be read: {error}") from None


def keep_login(login: Login) -> None:
    write_private(login_file(), login.model_dump_json(indent=2, exclude_none=True).encode())


def find() -> Way:
    """CommandError: there is neither a login nor a controller here."""
    if login := kept_login():
        return Way(login.url, login.trust(), _Renewing(login), environment=True)
    settings = ControllerSettings()
    keys = keys_here()
    try:
        port, scheme = ((settings.data_dir / name).read_text().strip() for name in ("port", "scheme"))
    except OSError as error:
        raise _none_here(error) from None
    token = tokens.sign(keys.signing, f"local:{getpass.getuser()}", "admin", time.time())
    trust = pinned(keys.authority.certificate.decode(), None)
    return Way(f"{scheme}://127.0.0.1:{port}", trust, Bearer(token), environment=False)


def keys_here() -> Keys:
    """Of the controller on this machine. CommandError."""
    try:
        return read_keys(ControllerSettings().data_dir)
    except OSError as error:
        raise _none_here(error) from None


def _none_here(error: OSError) -> CommandError:
    told = f"no controller is on this machine ({error.strerror}: {error.filename})"
    return CommandError(f"{told}. {HOW_TO_START}")


def ask_for_token(url: str, trust: ssl.SSLContext, fields: dict[str, str]) -> dict[str, Any]:
    """The token endpoint's answer. CommandError: it refuses; httpx.HTTPError."""
    with httpx.Client(verify=trust, timeout=30) as client:
        return token_answer(client.post(url, data=fields))


def token_answer(response: httpx.Response) -> dict[str, Any]:
    """What a token endpoint says. CommandError: it refuses, or is none."""
    says = f"{response.url} answered {response.status_code}"
    try:
        answer: dict[str, Any] = dict(response.json())
    except (ValueError, TypeError):
        raise CommandError(f"{says}: is it a controller?") from None
    if response.is_error:
        raise CommandError(answer.get("error_description") or answer.get("error") or says)
    return answer


def with_token(login: Login, answer: dict[str, Any]) -> Login:
    told = {
        "access_token": answer["access_token"],
        "expires_at": time.time() + answer.get("expires_in", UNTOLD_S),
        "refresh_token": answer.get("refresh_token") or login.refresh_token,
    }
    return login.model_copy(update=told)


class Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


class _Renewing(httpx.Auth):
    """A login's token, renewed when it is near its end, or refused."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._login.expires_at is not None and time.time() > self._login.expires_at - EARLY_S:
            self._login = _renewed(self._login)
        request.headers["authorization"] = f"Bearer {self._login.access_token}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED and _can_renew(self._login):
            self._login = _renewed(self._login)
            request.headers["authorization"] = f"Bearer {self._login.access_token}"
            yield request


def _can_renew(login: Login) -> bool:
    return bool(login.refresh_token or login.client_secret)


def _renewed(login: Login) -> Login:
    """By one command at a time: a refresh token is good for one use. CommandError."""
    with locked(login_file().with_name(".cloud.lock")):
        kept = kept_login() or login
        if kept.access_token != login.access_token:  # another command has done it
            return kept
        try:
            made = with_token(login, ask_for_token(login.token_at, login.token_trust(), _renewal(login)))
        except CommandError as error:
            raise CommandError(f"{error}. Log in again: autoglm cloud login {login.url}") from None
        keep_login(made)
        return made


def _renewal(login: Login) -> dict[str, str]:
    if login.refresh_token:
        public = {"client_id": login.client_id} if login.client_id else {}
        return {"grant_type": "refresh_token", "refresh_token": login.refresh_token, **public}
    if login.client_id and login.client_secret:
        told = {"client_id": login.client_id, "client_secret": login.client_secret}
        return {"grant_type": "client_credentials", **told}
    raise CommandError("this login's token is over")
