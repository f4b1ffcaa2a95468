"""`leave`: this machine is a node of a fleet no longer."""

from __future__ import annotations

import asyncio

from agent.cli.errors import CommandError
from agent.cli.node import load_settings
from agent.cli.screen import err


def leave(force: bool) -> None:
    from cloud_sync.joining import leave
    from cloud_sync.membership import NotJoined
    from cloud_sync.transports.transport import LinkError

    try:
        asyncio.run(leave(load_settings().cloud_dir, force))
    except NotJoined as error:
        raise CommandError(str(error)) from None
    except (LinkError, OSError) as error:
        raise CommandError(
            f"the controller cannot be told: {error}. --force leaves all the same; then there: cloud remove"
        ) from None
    err.print("This machine is on its own. An agent that runs keeps the fleet's settings until it restarts.")
