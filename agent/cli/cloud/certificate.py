"""`cloud certificate`: a server's certificate by the controller's CA, for a proxy before the controller."""

from __future__ import annotations

import time
from pathlib import Path

from agent.cli.cloud.ways import keys_here
from agent.cli.errors import CommandError
from agent.cli.screen import err
from cloud_sync import identity
from cloud_sync.identity import DAY
from models.disk import write_private


def certificate(hosts: list[str], out: Path, days: int) -> None:
    authority, key = keys_here().authority, identity.new_key()
    made = authority.issue_server(key, hosts, time.time(), days * DAY)
    try:
        write_private(out, made + authority.certificate + key)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror or error}") from None
    err.print(f"{out} has the certificate, the CA's, and the key: keep it private", markup=False)
