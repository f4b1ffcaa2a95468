"""What one copy of the controller does at a time: PostgreSQL's advisory locks, each with a number of its own.

They are the same in all releases, since two may run side by side.
"""

from __future__ import annotations

from enum import IntEnum


class Turn(IntEnum):
    MIGRATE = 4242018
    PUT_DOWN_EVENTS = 4242019
    WATCH = 4242023
    MAKE_PARTITIONS = 4242031
    TIDY = 4242032
    LOOK_FOR_BEHIND = 4242033
