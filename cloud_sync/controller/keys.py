"""The controller's secrets, as files of its data folder: its CA, and the key that signs operators' tokens.

Copies of the controller that serve one fleet are given the same files.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cloud_sync import identity
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.identity import Authority
from models.disk import locked, write_private


@dataclass(frozen=True, slots=True)
class Keys:
    authority: Authority
    signing: bytes  # PEM


def ensure_keys(folder: Path, now: float) -> Keys:
    """What is there, made where it is not. OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / ".keys.lock"):
        if not (folder / "ca.key").exists():  # the last of its files
            made = identity.new_authority("Open-AutoGLM Edge controller", now)
            write_private(folder / "signing.key", identity.new_key())
            write_private(folder / "ca.pem", made.certificate)
            write_private(folder / "ca.key", made.key)
    return read_keys(folder)


def read_keys(folder: Path) -> Keys:
    """OSError: it is no controller's data folder, or somebody else's."""
    authority = Authority((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
    return Keys(authority, (folder / "signing.key").read_bytes())


def server_certificate(authority: Authority, settings: ControllerSettings, now: float) -> Path:
    """A new key and certificate for this process, in one file, which may be deleted once it is read."""
    key = identity.new_key()
    life_s = settings.server_certificate_life_s
    certificate = authority.issue_server(key, server_names(settings), now, life_s)
    path = settings.data_dir / f"server-{os.getpid()}.pem"
    write_private(path, key + certificate + authority.certificate)
    return path


def server_names(settings: ControllerSettings) -> list[str]:
    """What clients that check names may call this machine."""
    host = socket.gethostname()
    named = [] if settings.host in ("", "0.0.0.0", "::") else [settings.host]  # noqa: S104 - compared
    return [*settings.names, *named, host, socket.getfqdn(), "localhost", "127.0.0.1", "::1"]
