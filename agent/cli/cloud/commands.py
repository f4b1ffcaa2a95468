"""What can be typed after `autoglm cloud`."""

from __future__ import annotations

from typing import Annotated

import typer

cloud = typer.Typer(
    help="The controller of a fleet, and commands to it.", no_args_is_help=True, rich_markup_mode="rich"
)
config = typer.Typer(help="Settings of nodes, by layers.", no_args_is_help=True)
cloud.add_typer(config, name="config")

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for scripts.")]
Label = Annotated[list[str] | None, typer.Option("--label", help="key=value; may be given again.")]


@cloud.command()
def serve() -> None:
    """Run the controller here."""
    from agent.cli.cloud.serve import serve

    serve()


@cloud.command()
def token(
    life: Annotated[str, typer.Option(help="How long it may be used: 30m, 1h, 7d.")] = "1h",
    label: Label = None,
    replace: Annotated[str | None, typer.Option(help="The node that the machine takes the place of.")] = None,
    json: Json = False,
) -> None:
    """Make a token, with which one machine may join. It is shown once."""
    from agent.cli.cloud.fleet import token

    token(life, label or [], replace, json)


@cloud.command()
def nodes(json: Json = False) -> None:
    """List the nodes: health, versions, last heartbeat, labels."""
    from agent.cli.cloud.fleet import nodes

    nodes(json)


@cloud.command()
def label(
    node: Annotated[str, typer.Argument(help="A node.")],
    labels: Annotated[list[str], typer.Argument(help="key=value; key= takes it away.")],
) -> None:
    """Change a node's labels, and with them its settings."""
    from agent.cli.cloud.fleet import label

    label(node, labels)


@cloud.command()
def revoke(node: Annotated[str, typer.Argument(help="A node.")]) -> None:
    """Let a node's identity count no longer. It serves on, alone."""
    from agent.cli.cloud.fleet import revoke

    revoke(node)


@cloud.command()
def audit(
    limit: Annotated[int, typer.Option(help="How many rows.", min=1, max=1000)] = 50, json: Json = False
) -> None:
    """Who changed what, when, from where: the newest first."""
    from agent.cli.cloud.fleet import audit

    audit(limit, json)


To = Annotated[str | None, typer.Option(help="Nodes with these labels: site=paris,kind=jetson.")]
OneNode = Annotated[str | None, typer.Option(help="One node.")]


@config.command("show")
def show(node: OneNode = None, json: Json = False) -> None:
    """List the layers of settings, the lowest first; of one node what it is told, and by which layer."""
    from agent.cli.cloud import config

    config.show(node, json)


@config.command("set")
def change(
    settings: Annotated[
        list[str], typer.Argument(help="name=value, models.NAME.setting=value; name=null takes it away.")
    ],
    to: To = None,
    node: OneNode = None,
    json: Json = False,
) -> None:
    """Change settings of all nodes, of a group, or of one node."""
    from agent.cli.cloud import config

    config.change(settings, to, node, json)


@config.command("unset")
def unset(
    names: Annotated[list[str], typer.Argument(help="Names of settings.")],
    to: To = None,
    node: OneNode = None,
    json: Json = False,
) -> None:
    """Take settings of all nodes, of a group, or of one node away: lower layers, or the node's own, count."""
    from agent.cli.cloud import config

    config.unset(names, to, node, json)
