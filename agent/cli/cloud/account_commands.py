"""What can be typed after `autoglm cloud` about operators: logins, users, clients, a proxy's certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RUN = "The controller"
WHO = "Who may operate it"

accounts = typer.Typer()
users = typer.Typer(help="People who may operate the fleet.", no_args_is_help=True)
clients = typer.Typer(help="Programs that may: OAuth 2.0 clients.", no_args_is_help=True)
accounts.add_typer(users, name="users", rich_help_panel=WHO)
accounts.add_typer(clients, name="clients", rich_help_panel=WHO)

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for scripts.")]
RoleName = Literal["viewer", "operator", "admin"]
Role = Annotated[RoleName, typer.Option(help="viewer looks, operator changes nodes, admin changes accounts.")]
User = Annotated[str, typer.Argument(help="A user.")]
Client = Annotated[str, typer.Argument(help="A client's name.")]


@accounts.command(rich_help_panel=WHO)
def login(
    url: Annotated[str, typer.Argument(help="The controller: https://HOST:8090.")],
    user: Annotated[str | None, typer.Option(help="Who logs in; the password is asked for.")] = None,
    client_id: Annotated[
        str | None,
        typer.Option(help="An OAuth client; its secret by AUTOGLM_CLOUD_CLIENT_SECRET, or asked for."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", metavar="", help="By a token of the OpenID Connect issuer, asked for.")
    ] = False,
    device: Annotated[
        bool,
        typer.Option("--device", metavar="", help="At the OpenID Connect issuer, by a browser anywhere."),
    ] = False,
    ca_fingerprint: Annotated[
        str | None, typer.Option(help="SHA-256 of the controller's CA, which is trusted then.")
    ] = None,
) -> None:
    """Log in to a controller, from any machine.

    Without a terminal, secrets are read from standard input.
    """
    from agent.cli.cloud.login import login

    login(url, user, client_id, token, device, ca_fingerprint)


@accounts.command(rich_help_panel=WHO)
def logout() -> None:
    """End the login, here and at the controller."""
    from agent.cli.cloud.login import logout

    logout()


@accounts.command(rich_help_panel=WHO)
def whoami(json: Json = False) -> None:
    """Tell who the commands are to the controller, and which one that is."""
    from agent.cli.cloud.login import whoami

    whoami(json)


@accounts.command(rich_help_panel=RUN)
def certificate(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses of the proxy.")],
    out: Annotated[Path, typer.Option(help="The file to write: certificate, chain and key.")],
    days: Annotated[int, typer.Option(help="How long it is good.", min=1, max=3650)] = 365,
) -> None:
    """Make a certificate that nodes trust, for a proxy before the controller.

    On the controller's machine.
    """
    from agent.cli.cloud.certificate import certificate

    certificate(hosts, out, days)


@users.command("add")
def add_user(name: User, role: Role = "viewer") -> None:
    """Make a user. The password is asked for, or read from standard input."""
    from agent.cli.cloud.accounts import add_user

    add_user(name, role)


@users.command("list")
def list_users(json: Json = False) -> None:
    """List the users."""
    from agent.cli.cloud.accounts import listed

    listed("users", json)


@users.command("disable")
def disable_user(name: Annotated[str, typer.Argument(help="A user, or oidc:SUBJECT.")]) -> None:
    """Keep a user out, from now on."""
    from agent.cli.cloud.accounts import change

    change("users", name, disabled=True)


@users.command("enable")
def enable_user(name: Annotated[str, typer.Argument(help="A user, or oidc:SUBJECT.")]) -> None:
    """Let a user in again."""
    from agent.cli.cloud.accounts import change

    change("users", name, disabled=False)


@users.command("role")
def role_of_user(
    name: User, role: Annotated[RoleName, typer.Argument(help="viewer, operator or admin.")]
) -> None:
    """Give a user another role."""
    from agent.cli.cloud.accounts import change

    change("users", name, role=role)


@users.command("password")
def password(name: User) -> None:
    """Set a user's password; one's own takes the former one. It ends the user's logins."""
    from agent.cli.cloud.accounts import password

    password(name)


@clients.command("add")
def add_client(name: Client, role: Role = "viewer", json: Json = False) -> None:
    """Make a client. Its secret is shown once."""
    from agent.cli.cloud.accounts import add_client

    add_client(name, role, json)


@clients.command("list")
def list_clients(json: Json = False) -> None:
    """List the clients."""
    from agent.cli.cloud.accounts import listed

    listed("clients", json)


@clients.command("disable")
def disable_client(name: Client) -> None:
    """Keep a client out, from now on."""
    from agent.cli.cloud.accounts import change

    change("clients", name, disabled=True)


@clients.command("enable")
def enable_client(name: Client) -> None:
    """Let a client in again."""
    from agent.cli.cloud.accounts import change

    change("clients", name, disabled=False)
