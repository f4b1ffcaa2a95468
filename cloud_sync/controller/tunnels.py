"""The controller's end of tunnels through an MQTT broker: each stream is a connection to its own server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter

import structlog

from cloud_sync.backoff import pause
from cloud_sync.controller.wire import Server
from cloud_sync.tunnel import topics
from cloud_sync.tunnel.broker import Broker, BrokerError, Message, Place
from cloud_sync.tunnel.pipe import Pipe

MOST = 20_000  # streams at a time
MOST_OF_NODE = 16
ID_BYTES = 16  # the first half names the node's connection to the broker
log = structlog.get_logger()


async def serve_tunnels(place: Place, server: Server) -> None:
    """Until cancelled: a broker that is away is tried again, with full jitter."""
    tries = 0
    while True:
        tunnels = _Tunnels(place, server)
        try:
            await tunnels.connect()
            log.info("nodes may come through the broker", url=place.shown)
            tries = 0
            log.warning("the broker is away", reason=str(await tunnels.ended()))
        except BrokerError as error:
            log.warning("nodes cannot come through the broker", reason=str(error))
        finally:
            await tunnels.close()
        await asyncio.sleep(pause(tries))
        tries += 1


class _Tunnels:
    """Of one connection to the broker, whose id names this copy of the controller."""

    def __init__(self, place: Place, server: Server) -> None:
        self._server = server
        self._broker = Broker(place, topics.COPY_GONE, self._hear)
        self._streams: dict[bytes, tuple[str, Pipe]] = {}
        self._of_node: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """BrokerError."""
        await self._broker.connect((topics.OPENINGS, topics.up("+", self._broker.id), topics.NODES_GONE))

    async def ended(self) -> BrokerError:
        return await self._broker.ended()

    async def close(self) -> None:
        await self._broker.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hear(self, message: Message) -> None:
        node = topics.node_of(message.topic)
        if message.topic == topics.gone(node):
            gone = bytes.fromhex(message.payload.decode()) if _is_hex(message.payload) else b"nobody"
            for id, (_, pipe) in self._streams.items():
                if id.startswith(gone):
                    pipe.end()
        elif message.topic == topics.up(node) and message.reply == topics.down(node):
            self._open(node, message)
        elif (found := self._streams.get(message.correlation)) and found[0] == node:
            found[1].take(message.payload)

    def _open(self, node: str, message: Message) -> None:
        id = message.correlation
        full = len(self._streams) >= MOST or self._of_node[node] >= MOST_OF_NODE
        if full or len(id) != ID_BYTES or id in self._streams:
            log.warning("a stream is refused", node=node, open=len(self._streams))
            return
        task = asyncio.create_task(self._carry(node, id, message.payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, node: str, id: bytes, first: bytes) -> None:
        reply = topics.up(node, self._broker.id)

        async def send(data: bytes) -> None:
            await self._broker.publish(topics.down(node), data, id, reply)

        pipe = Pipe(send, self._broker.piece)
        pipe.take(first)
        self._streams[id] = node, pipe
        self._of_node[node] += 1
        try:
            await self._connect(pipe)
        except (OSError, BrokerError) as error:
            log.debug("a stream ended", node=node, reason=str(error))
        except Exception:  # ours: it must cost no more than this stream
            log.exception("a stream failed", node=node)
        finally:
            del self._streams[id]
            self._of_node[node] -= 1
            if not self._of_node[node]:
                del self._of_node[node]

    async def _connect(self, pipe: Pipe) -> None:
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=near)
        taken = asyncio.create_task(self._server.take(far))
        try:
            await pipe.run(reader, writer)
        finally:
            with contextlib.suppress(OSError):  # no TLS came of it
                await taken


def _is_hex(data: bytes) -> bool:
    try:
        return len(bytes.fromhex(data.decode())) == ID_BYTES // 2
    except ValueError:
        return False
