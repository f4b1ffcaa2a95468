"""A join token as it is handed from an operator to a machine: `ID.SECRET.FINGERPRINT`, all hexadecimal.

The fingerprint is that of the controller's CA: who has the token knows whom to trust before a word is said.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

_SHAPE = re.compile(r"([0-9a-f]{12})\.([0-9a-f]{48})\.([0-9a-f]{64})")


class JoinToken(NamedTuple):
    id: str
    secret: str
    fingerprint: str

    @classmethod
    def new(cls, fingerprint: str) -> JoinToken:
        return cls(secrets.token_hex(6), secrets.token_hex(24), fingerprint)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """ValueError: it is none."""
        if not (found := _SHAPE.fullmatch(text.strip())):
            raise ValueError("this is no join token: `autoglm cloud token` makes one")
        return cls(*found.groups())

    @property
    def digest(self) -> str:
        """What the controller keeps. The secret has 192 random bits: a plain hash does."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def __str__(self) -> str:
        return ".".join(self)
