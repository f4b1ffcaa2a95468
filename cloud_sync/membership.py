"""What makes this machine a node of a fleet: files in `cloud/` of the agent's data folder, each kept twice.

`identity.pem` holds the key and its certificate together, so that they are replaced together; `fleet.json`
says where the controller is; `ca.pem` is whom the node trusts.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel

from cloud_sync import kept
from cloud_sync.identity import BadIdentity, check_pair, fingerprint
from cloud_sync.messages import NodeName
from models.address import without_login


class NotJoined(Exception):
    """This machine is no node of any fleet."""


class Damaged(Exception):
    """It is one, but its files cannot be used any more."""


class Fleet(BaseModel):
    url: str
    """Of the controller, without a path; or of a broker, and there may be a login in it."""
    name: NodeName
    """What the fleet calls this node."""
    broker_ca: str = ""
    """PEM; of a broker's own CA."""

    @property
    def shown(self) -> str:
        """The URL without a login."""
        return without_login(self.url)


class Membership:
    """`fleet` and `ca` are read once; the files may change."""

    def __init__(self, folder: Path) -> None:
        """NotJoined, Damaged."""
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.identity = folder / "identity.pem"
        try:
            told = kept.mend(folder / "fleet.json", _fleet)
            self.fleet = Fleet.model_validate_json(told)
            self._trusted = kept.mend(self.ca, _certificate)
            self._read = {"fleet.json": told, "identity.pem": kept.mend(self.identity, self._pair)}
            self.fleet_id = sha256(self._trusted).hexdigest()[:16]  # another CA is another fleet
        except FileNotFoundError:
            if kept.damaged(folder):
                raise Damaged(_lost(folder, "they are damaged")) from None
            raise NotJoined("this machine is no node of a fleet: autoglm join URL --token TOKEN") from None
        except (OSError, ValueError) as error:
            raise Damaged(_lost(folder, str(error))) from error

    @classmethod
    def create(cls, folder: Path, fleet: Fleet, ca: bytes, identity: bytes) -> Membership:
        """Join for good. OSError."""
        kept.write(folder / "ca.pem", ca)
        kept.write(folder / "identity.pem", identity)
        kept.write(folder / "fleet.json", fleet.model_dump_json(indent=2).encode())  # last: now it is true
        for name in ("joining.key", "joining.ca"):
            (folder / name).unlink(missing_ok=True)
        return cls(folder)

    def end(self) -> None:
        """With all that the fleet had set. OSError."""
        kept.copy_of(self.folder / "fleet.json").unlink(missing_ok=True)
        (self.folder / "fleet.json").unlink()  # before the others: from now on this is no node
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()

    def is_outdated(self) -> bool:
        """Whether the files have another identity or address now, or none. OSError."""
        try:
            return any((self.folder / name).read_bytes() != data for name, data in self._read.items())
        except FileNotFoundError:
            return True

    def renew(self, identity: bytes) -> None:
        """Key and certificate (PEM) in the place of the former ones. OSError."""
        kept.write(self.identity, identity)

    def _pair(self, data: bytes) -> bytes:
        try:
            check_pair(data, self._trusted)
        except BadIdentity as error:
            raise ValueError(str(error)) from error
        return data


def _fleet(data: bytes) -> bytes:
    Fleet.model_validate_json(data)
    return data


def _certificate(data: bytes) -> bytes:
    try:
        fingerprint(data)
    except BadIdentity as error:
        raise ValueError(str(error)) from error
    return data


def _lost(folder: Path, why: str) -> str:
    return (
        f"what makes this machine a node cannot be used in {folder}: {why}. An operator gives it its place "
        "again: autoglm cloud token --replace NAME; then here: autoglm join URL --token TOKEN --again"
    )
