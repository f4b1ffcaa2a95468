"""What the controller refuses, and how it says so.

Refused
  Unauthorised (401)  no identity, or one that counts no longer
  Forbidden    (403)  an identity that may not do this
  NotFound     (404)
  Conflict     (409)
  Invalid      (422)
  TooMany      (429)  has retry_after
"""

from __future__ import annotations


class Refused(Exception):
    """`code` is for programs, the message for people."""

    status = 400

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Unauthorised(Refused):
    status = 401


class Forbidden(Refused):
    status = 403


class NotFound(Refused):
    status = 404


class Conflict(Refused):
    status = 409


class Invalid(Refused):
    status = 422


class TooMany(Refused):
    status = 429

    def __init__(self, code: str, message: str, retry_after: float) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after  # seconds
