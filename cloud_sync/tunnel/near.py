"""The node's end of tunnels: each connection to a local socket becomes a stream to the controller."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from cloud_sync.tunnel import topics
from cloud_sync.tunnel.broker import Broker, BrokerError, Message, Place
from cloud_sync.tunnel.pipe import Pipe

ANSWER_S = 10.0  # within which a copy of the controller takes a stream


class _Stream:
    def __init__(self, id: bytes, broker: Broker, node: str) -> None:
        self._id, self._broker, self._node = id, broker, node
        self.copy: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """That took it."""
        self._opened = False
        self.pipe = Pipe(self._send, broker.piece)

    async def _send(self, data: bytes) -> None:
        if not self._opened:
            self._opened = True
            reply = topics.down(self._node)
            return await self._broker.publish(topics.up(self._node), data, self._id, reply)
        async with asyncio.timeout(ANSWER_S):
            copy = await asyncio.shield(self.copy)
        await self._broker.publish(topics.up(self._node, copy), data, self._id)


class Tunnels:
    """Through one connection to the broker, made anew when it is needed. `path`: of the local socket."""

    def __init__(self, place: Place, node: str, path: Path) -> None:
        self._place, self._node, self._path = place, node, path
        self._broker: Broker | None = None
        self._connecting = asyncio.Lock()
        self._streams: dict[bytes, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def connect(self) -> None:
        """BrokerError, OSError."""
        async with self._connecting:
            if self._server is None:
                listener = await asyncio.to_thread(_bound, self._path)
                self._server = await asyncio.start_unix_server(self._accept, sock=listener)
            if self._broker is None or self._broker.is_over:
                broker = Broker(self._place, topics.gone(self._node), self._hear)
                await broker.connect((topics.down(self._node), topics.COPY_GONE))
                self._broker = broker
                self._keep(asyncio.create_task(self._until_over(broker)))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
        if self._broker is not None:
            await self._broker.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker = self._broker
        if broker is None or broker.is_over:
            return writer.close()
        id = bytes.fromhex(broker.id) + os.urandom(8)
        stream = self._streams[id] = _Stream(id, broker, self._node)
        try:
            await stream.pipe.run(reader, writer)
        except (BrokerError, TimeoutError):
            pass  # whoever used the socket sees it closed
        finally:
            del self._streams[id]

    def _hear(self, message: Message) -> None:
        if message.topic == topics.COPY_GONE:
            gone = message.payload.decode(errors="replace")
            for stream in list(self._streams.values()):
                if stream.copy.done() and stream.copy.result() == gone:
                    stream.pipe.end()
        elif found := self._streams.get(message.correlation):
            prefix, _, copy = message.reply.rpartition("/")
            if not found.copy.done() and prefix == topics.up(self._node):
                found.copy.set_result(copy)
            found.pipe.take(message.payload)

    async def _until_over(self, broker: Broker) -> None:
        await broker.ended()
        for stream in list(self._streams.values()):
            stream.pipe.end()


def _bound(path: Path) -> socket.socket:
    """For its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener
