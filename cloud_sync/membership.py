"""What makes this machine a node of a fleet: files in `cloud/` of the agent's data folder.

`identity.pem` holds the key and its certificate together, so that they are replaced together; `fleet.json`
says where the controller is; `ca.pem` is whom the node trusts.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cloud_sync.messages import NodeName
from models.disk import write_private


class NotJoined(Exception):
    """This machine is no node of any fleet, or its files are not whole."""


class Fleet(BaseModel):
    url: str
    """Of the controller, without a path."""
    name: NodeName
    """What the fleet calls this node."""


class Membership:
    """`fleet` and `ca` are read once; the identity changes."""

    def __init__(self, folder: Path) -> None:
        """NotJoined."""
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.identity = folder / "identity.pem"
        try:
            self.fleet = Fleet.model_validate_json((folder / "fleet.json").read_bytes())
            self.fleet_id = sha256(self.ca.read_bytes()).hexdigest()[:16]  # another CA is another fleet
            self._read = self.identity.read_bytes()
        except FileNotFoundError:
            raise NotJoined("this machine is no node of a fleet: autoglm join URL --token TOKEN") from None
        except (OSError, ValidationError) as error:
            raise NotJoined(f"what makes this machine a node cannot be read in {folder}: {error}") from error

    @classmethod
    def create(cls, folder: Path, fleet: Fleet, ca: bytes, identity: bytes) -> Membership:
        """Join for good. OSError."""
        write_private(folder / "ca.pem", ca)
        write_private(folder / "identity.pem", identity)
        write_private(folder / "fleet.json", fleet.model_dump_json(indent=2).encode())  # last: now it is true
        (folder / "joining.key").unlink(missing_ok=True)
        return cls(folder)

    def is_outdated(self) -> bool:
        """Whether the files have another identity now. OSError."""
        return self.identity.read_bytes() != self._read

    def renew(self, identity: bytes) -> None:
        """Key and certificate (PEM) in the place of the former ones. OSError."""
        write_private(self.identity, identity)
