"""What systemd is told, and asks: sd_notify(3) without a library. Elsewhere all of it does nothing."""

from __future__ import annotations

import os
import socket


def notify(*states: str) -> bool:
    """Send assignments such as `"READY=1"`, `"STATUS=loading"` or `"WATCHDOG=1"`. False: nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(states).encode(), address)
        except OSError:  # systemd is being re-executed; the next one gets through
            return False
    return True


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`, half of what systemd allows; None: it does not watch us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if watched and watched != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
