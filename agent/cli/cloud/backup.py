"""`cloud backup` and `cloud restore`, on the controller's machine."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

from agent.cli.errors import CommandError
from agent.cli.screen import err, when


def backup(path: Path) -> None:
    from cloud_sync.controller.backup import Failed, save
    from cloud_sync.controller.config import ControllerSettings

    try:
        rows = asyncio.run(save(ControllerSettings(), path))
    except (Failed, OSError, ValueError) as error:
        raise CommandError(f"no backup was made: {error}") from None
    err.print(
        f"{path} has all {rows} rows and the keys of the CA: who can read it can be this controller."
        " It is readable for you alone (0600); keep it so.",
        markup=False,
    )


def restore(path: Path, force: bool) -> None:
    from cloud_sync.controller.backup import Failed, restore
    from cloud_sync.controller.config import ControllerSettings

    try:
        header = asyncio.run(restore(ControllerSettings(), path, f"local:{getpass.getuser()}", force))
    except (Failed, OSError, ValueError) as error:
        raise CommandError(f"nothing was restored: {error}") from None
    err.print(
        f"The fleet is as it was at {when(header.made_at)}, in a new epoch: nodes take these documents,"
        " whatever they had since. Start with: autoglm cloud serve",
        markup=False,
    )
