"""Why a process ended: its exit status in words, and its stack where it crashed."""

from __future__ import annotations

import os
import signal

MOST = 4096  # bytes


def epitaph(status: int) -> str:
    """The kind of death, a colon, and what is known of it."""
    if status == -signal.SIGKILL:
        return "killed: by SIGKILL, likely for want of memory"
    if status < 0:
        return f"crash: by signal {-status} ({signal.strsignal(-status) or 'real-time'})"
    return f"exit: with status {status}"


class CrashFile:
    """A file in memory, for faulthandler's last words; `fd` is for the process to inherit."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("crash")

    def read(self) -> dict[str, str]:
        """For a log's line: `trace`, where there is one."""
        told = os.pread(self.fd, MOST, 0).decode(errors="replace")
        return {"trace": told} if told else {}

    def close(self) -> None:
        os.close(self.fd)
