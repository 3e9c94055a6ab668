"""The `websockets` library, three ways.

Pings and compression are off: neither is part of what is measured, and permessage-deflate
would cost its sender more than all the rest. Where it is what is measured, it is on, as it
is by default.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import websockets.asyncio.server as asyncio_server
import websockets.sync.server as sync_server

from .base import Publish, Server, echo, ready_text, reports

__all__ = [
    "AsyncioBroadcast",
    "CompressingAsyncioBroadcast",
    "CompressingSyncBroadcast",
    "SyncBroadcast",
    "SyncLoop",
]


class AsyncioBroadcast(Server):
    """`broadcast()` on the event loop's thread, handed over from the publishing one."""

    distribution = "websockets"
    compression: str | None = None

    def start(self) -> int:
        self._connections: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    async def _listen(self) -> int:
        self._server = await asyncio_server.serve(
            self._live,
            "127.0.0.1",
            0,
            compression=self.compression,
            ping_interval=None,
        )
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def _live(self, connection: Any) -> None:
        self._connections.add(connection)
        try:
            async for message in connection:
                await connection.send(echo(message))
        finally:
            self._connections.discard(connection)

    def clients(self) -> int:
        return len(self._connections)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text, loop, everybody = ready_text(target, size), self._loop, self._connections
        return lambda: loop.call_soon_threadsafe(asyncio_server.broadcast, everybody, text)


class CompressingAsyncioBroadcast(AsyncioBroadcast):
    """The same with compression; it publishes what can be compressed."""

    compression = "deflate"

    def publisher(self, target: str, size: int, count: int) -> Publish:
        texts, loop, everybody = reports(size), self._loop, self._connections
        return lambda: loop.call_soon_threadsafe(asyncio_server.broadcast, everybody, next(texts))


class _Sync(Server):
    """A thread a connection, and one for its input."""

    distribution = "websockets"
    compression: str | None = None

    def start(self) -> int:
        # guards: the connections. Taken alone.
        self._lock = threading.Lock()
        self._connections: dict[Any, None] = {}
        self._server = sync_server.serve(
            self._live,
            "127.0.0.1",
            0,
            compression=self.compression,
            ping_interval=None,
            logger=logging.getLogger("websockets"),
        )
        threading.Thread(target=self._server.serve_forever, name="serve", daemon=True).start()
        return int(self._server.socket.getsockname()[1])

    def _live(self, connection: Any) -> None:
        with self._lock:
            self._connections[connection] = None
        try:
            for message in connection:
                connection.send(echo(message))
        finally:
            with self._lock:
                del self._connections[connection]

    def clients(self) -> int:
        return len(self._connections)

    def everybody(self) -> list[Any]:
        """Return a copy of the connections."""
        with self._lock:
            return list(self._connections)


class SyncBroadcast(_Sync):
    """`broadcast()` of the sync server: a thread pool for each call."""

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)
        return lambda: sync_server.broadcast(self.everybody(), text)


class CompressingSyncBroadcast(SyncBroadcast):
    """The same with compression; it publishes what can be compressed."""

    compression = "deflate"

    def publisher(self, target: str, size: int, count: int) -> Publish:
        texts = reports(size)
        return lambda: sync_server.broadcast(self.everybody(), next(texts))


class SyncLoop(_Sync):
    """`send()` to one after the other."""

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)

        def publish() -> None:
            for connection in self.everybody():
                connection.send(text)

        return publish
