"""What can be typed after `autoglm cloud`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.cloud.account_commands import RUN, Json, accounts

NODES = "Nodes and their settings"
SEEN = "What happens"

HELP = """The controller of a fleet, and commands to it.

[bold]First steps[/bold]
  autoglm cloud serve                          run the controller
  autoglm cloud token                          make a token for one machine
  autoglm join https://HOST:8090 --token T     on that machine
  autoglm cloud nodes                          see it
  autoglm cloud config set log_level=debug     change a setting of all nodes
"""

cloud = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")
config = typer.Typer(help="Settings of nodes, by layers.", no_args_is_help=True)
cloud.add_typer(config, name="config", rich_help_panel=NODES)
hooks = typer.Typer(help="Who is told of the fleet's events.", no_args_is_help=True)
cloud.add_typer(hooks, name="hooks", rich_help_panel=SEEN)
cloud.add_typer(accounts)  # without a name: its commands stand beside these

Of = Annotated[str | None, typer.Option("--node", help="Of one node.")]
OneNode = Annotated[str | None, typer.Option("--node", help="One node.")]
To = Annotated[str | None, typer.Option(help="Of nodes with these labels: site=paris,kind=jetson.")]
Kind = Annotated[list[str] | None, typer.Option("--kind", help="Of this kind; may be given again.")]
Level = Annotated[list[str] | None, typer.Option("--level", help="Of this level; may be given again.")]
Since = Annotated[str | None, typer.Option(help="Not older than this: 30m, 12h, 7d.")]
Limit = Annotated[
    int, typer.Option(help="How many at most, of the newest; the newest last.", min=1, max=1000)
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")]
Label = Annotated[list[str] | None, typer.Option("--label", help="key=value; may be given again.")]


@cloud.command(rich_help_panel=RUN)
def serve() -> None:
    """Run the controller here."""
    from agent.cli.cloud.serve import serve

    serve()


@cloud.command(rich_help_panel=RUN)
def backup(file: Annotated[Path, typer.Argument(help="Where it is put, readable for you alone.")]) -> None:
    """Put all that the controller here knows into one file, with its keys.

    It may run meanwhile.
    """
    from agent.cli.cloud.backup import backup

    backup(file)


@cloud.command(rich_help_panel=RUN)
def restore(
    file: Annotated[Path, typer.Argument(help="Of: autoglm cloud backup.")],
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="In the place of what is there, which is lost.")
    ] = False,
) -> None:
    """Make the controller here what it was when the backup was made.

    It must not run meanwhile.
    """
    from agent.cli.cloud.backup import restore

    restore(file, force)


@cloud.command(rich_help_panel=NODES)
def token(
    life: Annotated[str, typer.Option(help="How long it may be used: 30m, 1h, 7d.")] = "1h",
    label: Label = None,
    replace: Annotated[str | None, typer.Option(help="The node that the machine takes the place of.")] = None,
    json: Json = False,
) -> None:
    """Make a token, with which one machine may join. It is shown once."""
    from agent.cli.cloud.fleet import token

    token(life, label or [], replace, json)


@cloud.command(rich_help_panel=NODES)
def nodes(json: Json = False) -> None:
    """List the nodes: health, versions, last heartbeat, labels."""
    from agent.cli.cloud.fleet import nodes

    nodes(json)


@cloud.command(rich_help_panel=NODES)
def label(
    node: Annotated[str, typer.Argument(help="A node.")],
    labels: Annotated[list[str], typer.Argument(help="key=value; key= takes it away.")],
) -> None:
    """Change a node's labels, and with them its settings."""
    from agent.cli.cloud.fleet import label

    label(node, labels)


@cloud.command(rich_help_panel=NODES)
def revoke(node: Annotated[str, typer.Argument(help="A node.")]) -> None:
    """Let a node's identity count no longer. It serves on, alone."""
    from agent.cli.cloud.fleet import revoke

    revoke(node)


@cloud.command(rich_help_panel=NODES)
def remove(node: Annotated[str, typer.Argument(help="A node.")]) -> None:
    """Take a node out of the fleet for good, and free its name. It serves on, alone."""
    from agent.cli.cloud.fleet import remove

    remove(node)


@config.command("show")
def show(node: OneNode = None, json: Json = False) -> None:
    """List the layers of settings, the lowest first; or what one node is told, and by which."""
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
    """Take settings of all nodes, of a group, or of one node away.

    What lower layers say counts then, or what the node has of its own.
    """
    from agent.cli.cloud import config

    config.unset(names, to, node, json)


@config.command("history")
def history(
    to: To = None,
    node: OneNode = None,
    limit: Annotated[int, typer.Option(help="How many changes.", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """What was changed, by whom, and what it was before: the newest first."""
    from agent.cli.cloud import config

    config.history(to, node, limit, json)


@config.command("rollback")
def rollback(
    change: Annotated[int, typer.Argument(help="A change, by its number in the history.")], json: Json = False
) -> None:
    """Make the settings that one change touched as they were before it."""
    from agent.cli.cloud import config

    config.rollback(change, json)


@cloud.command(rich_help_panel=SEEN)
def events(
    node: Of = None,
    kind: Kind = None,
    since: Since = None,
    limit: Limit = 50,
    follow: Follow = False,
    json: Json = False,
) -> None:
    """What happened in the fleet, as the controller saw it or nodes told it."""
    from agent.cli.cloud.telemetry import told

    told("events", node=node, kind=kind or [], since=since, limit=limit, follow=follow, json=json)


@cloud.command(rich_help_panel=SEEN)
def logs(
    node: Of = None,
    level: Level = None,
    since: Since = None,
    limit: Limit = 50,
    follow: Follow = False,
    json: Json = False,
) -> None:
    """Warnings and errors from nodes' logs."""
    from agent.cli.cloud.telemetry import told

    told("logs", node=node, kind=level or [], since=since, limit=limit, follow=follow, json=json)


@cloud.command(rich_help_panel=SEEN)
def samples(
    node: Of = None, since: Since = None, limit: Limit = 50, follow: Follow = False, json: Json = False
) -> None:
    """Samples of prompts, from nodes that are told to take some."""
    from agent.cli.cloud.telemetry import told

    told("samples", node=node, kind=[], since=since, limit=limit, follow=follow, json=json)


@cloud.command(rich_help_panel=SEEN)
def series(
    name: Annotated[str | None, typer.Argument(help="Of a metric or a series; none: list them.")] = None,
    node: Of = None,
    to: To = None,
    by: Annotated[str, typer.Option(help="What has a line: metric, series, node.")] = "series",
    last: Annotated[str, typer.Option(help="Over this time until now: 30m, 12h, 7d.")] = "1h",
    step: Annotated[str | None, typer.Option(help="Of this length: 1m, 1h.")] = None,
    show: Annotated[str, typer.Option(help="As a curve: mean, sum, count, min, max, last.")] = "mean",
    json: Json = False,
) -> None:
    """What nodes measured, over time: curves on a terminal, numbers in a pipe."""
    from agent.cli.cloud.telemetry import lines, names

    if name is None:
        return names(node, to, json)
    lines(name, node=node, to=to, by=by, last=last, step=step, show=show, json=json)


@cloud.command(rich_help_panel=SEEN)
def audit(
    limit: Annotated[int, typer.Option(help="How many rows.", min=1, max=1000)] = 50, json: Json = False
) -> None:
    """Who changed what, when, from where: the newest first."""
    from agent.cli.cloud.fleet import audit

    audit(limit, json)


@hooks.command("add")
def add_hook(
    url: Annotated[str, typer.Argument(help="http:// or https://, to which notices are posted.")],
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Events, as node.lost; may be given again. All if not.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="whsec_..., or AUTOGLM_CLOUD_HOOK_SECRET; made if there is none.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell an address of what happens to the fleet from now on."""
    from agent.cli.cloud.hooks import add

    add(url, kind or [], secret, json)


@hooks.command("list")
def list_hooks(json: Json = False) -> None:
    """Who is told, and how far each is behind."""
    from agent.cli.cloud.hooks import listed

    listed(json)


@hooks.command("remove")
def remove_hook(id: Annotated[str, typer.Argument(help="As `list` shows it.")]) -> None:
    """Tell an address no longer."""
    from agent.cli.cloud.hooks import remove

    remove(id)
