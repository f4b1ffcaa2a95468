"""A real PostgreSQL of the tests' own: Debian's, in a folder and on a port that go when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.agent import free_port

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))


class Postgres:
    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="autoglm-postgres-"))
        self._user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(self._folder, self._user)
        self._port = free_port()
        self._databases = 0
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "test", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self._process = subprocess.Popen(
            [
                *(BIN / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self._port), "-k", self._folder),
                *("-c", "fsync=off", "-c", "max_connections=50"),
            ],
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while self.psql("SELECT 1", "postgres").returncode:
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def database(self) -> str:
        """The URL of a new one."""
        self._databases += 1
        name = f"fleet{self._databases}"
        assert self.psql(f"CREATE DATABASE {name}", "postgres").returncode == 0
        return f"postgresql://test@127.0.0.1:{self._port}/{name}"

    def psql(self, statement: str, database: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", "127.0.0.1", "-p", str(self._port), "-U", "test", "-d", database]
        return subprocess.run(
            [BIN / "psql", "-X", "-q", *where, "-c", statement],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self._folder,
        )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # a fast one: it waits for no client
        self._process.wait(60)
        shutil.rmtree(self._folder)

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [BIN / command, *arguments],
            user=self._user,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
