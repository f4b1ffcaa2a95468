"""`join`: this machine becomes a node of a fleet."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.cli.cloud.pairs import labels
from agent.cli.errors import CommandError, UsageError
from agent.cli.node import load_settings
from agent.cli.screen import err


def join(
    url: str, token: str, name: str | None, label: list[str], again: bool, broker_ca: Path | None
) -> None:
    from cloud_sync.joining import join
    from cloud_sync.transports.transport import LinkError, Rejected

    settings = load_settings()
    if not url.startswith(("https://", "mqtts://", "mqtt://")):
        raise UsageError("the controller's URL begins with https://, or is a broker's: mqtts://")
    if (settings.cloud_dir / "fleet.json").exists() and not again:
        raise CommandError("this machine is a node already; --again lets it join anew, as another")
    try:
        pem = broker_ca.read_text() if broker_ca else ""
        made = asyncio.run(join(url, token, name or settings.node, labels(label), settings.cloud_dir, pem))
    except ValueError as error:
        raise UsageError(str(error)) from None
    except Rejected as error:
        raise CommandError(f"the controller refuses: {error}") from None
    except (LinkError, OSError) as error:
        raise CommandError(f"the controller at {url} cannot be reached: {error}") from None
    err.print(
        f"This machine is now the node {made.fleet.name}: an agent that runs links up within seconds;"
        " or start one: autoglm serve",
        markup=False,
    )
