"""How a command fails: one line that says what to do."""

from __future__ import annotations


class CommandError(Exception):
    exit_code = 1


class UsageError(CommandError):
    """The caller asked wrongly, by an argument or by a setting."""

    exit_code = 2
