"""What can go wrong with models.

    ModelError
    |-- BadSource            the source or the name cannot be understood: ask for another
    |-- NotOnShelf           no such Model or Version on the shelf
    |-- Damaged              a Version's file is missing or differs from its digest: pull it again
    |-- BadFile              not a model's file, or one that an engine must not be shown
    |   |-- GGUFError
    |   `-- ONNXError
    |-- NoRoom               the disk is too small; the message has the numbers
    `-- PullError            the source could not give the file
        |-- NotThere         it has no such repository or file
        |-- AccessDenied     it wants a token, or an accepted licence
        |-- WrongDigest      what came is not what was promised
        `-- Unreachable      the network or the server failed; trying later may help

`str(error)` is a sentence fit for the user: what is wrong, and what to do where that is known.
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of all."""


class BadSource(ModelError):
    pass


class NotOnShelf(ModelError):
    pass


class Damaged(ModelError):
    pass


LONG = 700  # characters


class BadFile(ModelError):
    pass


class GGUFError(BadFile):
    """It names what the file says, which may be long and all escapes."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) < LONG else f"{message[: LONG // 2]} ... {message[-200:]}")


class ONNXError(BadFile):
    pass


class NoRoom(ModelError):
    pass


class PullError(ModelError):
    pass


class NotThere(PullError):
    pass


class AccessDenied(PullError):
    pass


class WrongDigest(PullError):
    pass


class Unreachable(PullError):
    pass
