"""The two sockets of the HTTP door."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.config import Settings

BACKLOG = 2048


@contextmanager
def listening(settings: Settings) -> Iterator[tuple[socket.socket, socket.socket]]:
    """TCP and unix. Raises OSError, which says what to do."""
    with _tcp(settings.http_host, settings.http_port) as tcp, _unix(settings.socket) as unix:
        yield tcp, unix


def _tcp(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Of a name that has both, IPv4: "localhost" is to mean what 127.0.0.1 does.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} of {host} is in use: stop the program that has it,"
                f" or take another one with AUTOGLM_HTTP_PORT"
            ) from error
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; see AUTOGLM_HTTP_HOST"
        ) from error


@contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)  # the file is the agent's user's own from its first moment
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {path}: {error}; see AUTOGLM_DATA_DIR") from error
    finally:
        os.umask(old)
    mine = path.stat().st_ino
    try:
        with listener:
            yield listener
    finally:
        with suppress(FileNotFoundError):
            if path.stat().st_ino == mine:
                path.unlink()


def _remove_stale(path: Path) -> None:
    """What an agent that was killed has left. Nothing is removed while somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise OSError(f"cannot listen at {path}: {error}; see AUTOGLM_DATA_DIR") from error
    raise OSError(f"another agent listens at {path}: stop it, or set AUTOGLM_DATA_DIR")
