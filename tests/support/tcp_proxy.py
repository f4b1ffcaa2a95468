"""A TCP proxy between a node and its controllers: the first that can be reached has the connection."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Weather:
    """What befalls the bytes of each connection, in both directions."""

    delay_s: float = 0.0
    """Before each piece is passed on."""
    piece: int = 65536
    """Bytes of a piece, at most."""
    life: tuple[int, int] | None = None
    """After how many bytes the connection is cut: at random, from the one to the other."""
    reset: bool = False
    """Whether it is cut by a RST; else both sides see an end."""


class TcpProxy:
    """`targets`: ports on loopback, in the order in which they are tried. A life is a new connection's."""

    def __init__(self, *targets: int, seed: int = 1) -> None:
        self.targets = targets
        self.weather = Weather()
        self.cuts = 0
        self._random = random.Random(seed)
        self._open: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """All that are open now."""
        for one in list(self._open):
            one.cut(reset=True)

    def _accept(self) -> None:
        with suppress(OSError):  # stopped
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            for port in self.targets:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
                    life = self._random.randint(*self.weather.life) if self.weather.life else None
                    connection = _Connection(client, server, lambda: self.weather, life)
                    self._open.add(connection)
                    connection.run()
                    self._open.discard(connection)
                    self.cuts += connection.is_cut
                    return


class _Connection:
    def __init__(
        self, client: socket.socket, server: socket.socket, weather: Callable[[], Weather], life: int | None
    ) -> None:
        self._client, self._server, self._weather, self._left = client, server, weather, life
        self.is_cut = False

    def run(self) -> None:
        back = threading.Thread(target=self._pump, args=(self._server, self._client), daemon=True)
        back.start()
        self._pump(self._client, self._server)
        back.join()

    def cut(self, *, reset: bool) -> None:
        self.is_cut = True
        for one in (self._client, self._server):
            with suppress(OSError):
                if reset:  # it is sent when both are closed; what waits to read is woken
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Until either end is closed; then the other hears of it."""
        with suppress(OSError):
            while data := source.recv(Weather.piece):
                while data:  # in the weather that is now, not as it was when the wait for them began
                    weather = self._weather()
                    piece, data = data[: weather.piece], data[weather.piece :]
                    time.sleep(weather.delay_s)
                    if self._left is not None:
                        piece, self._left = piece[: self._left], self._left - len(piece)
                    target.sendall(piece)
                    if self._left is not None and self._left <= 0:
                        return self.cut(reset=weather.reset)
        if not self.is_cut:
            for one in (source, target):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
