"""A file in memory that a process writes its stack to when it crashes: faulthandler's last words."""

from __future__ import annotations

import os

MOST = 4096  # bytes


class CrashFile:
    """`fd` is for the process to inherit."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("crash")

    def read(self) -> dict[str, str]:
        """For a log's line: `trace`, where there is one."""
        told = os.pread(self.fd, MOST, 0).decode(errors="replace")
        return {"trace": told} if told else {}

    def close(self) -> None:
        os.close(self.fd)
