"""The picows library on uvloop.

The same as for `websockets asyncio`: one thread with the event loop, the publication handed
over to it from another by `call_soon_threadsafe`, the loop over the clients in Python. What
differs is what the loop calls: a frame is built in C, and written by a `send(2)` of its own
at once, past the event loop. Nothing is joined: a burst is a call for each client and
message. It has neither channels nor a broadcast. Pings are off, and it has no compression.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import picows
import uvloop

from .base import Publish, Server, echo, ready_text

__all__ = ["PicowsLoop"]

_TEXT = picows.WSMsgType.TEXT


class PicowsLoop(Server):
    """`send()` to one after the other, on the event loop's thread."""

    distribution = "picows"

    def start(self) -> int:
        self._transports: dict[picows.WSTransport, None] = {}
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    async def _listen(self) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._server = await picows.ws_create_server(
            lambda request: _Client(self._transports), sock=listener, backlog=1024
        )
        return int(listener.getsockname()[1])

    def clients(self) -> int:
        return len(self._transports)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        payload, loop = ready_text(target, size).encode(), self._loop
        return lambda: loop.call_soon_threadsafe(self._send, payload)

    def _send(self, payload: bytes) -> None:
        for transport in self._transports:
            transport.send(_TEXT, payload)


class _Client(picows.WSListener):  # type: ignore[misc]
    """Answers what its client sends."""

    def __init__(self, everybody: dict[picows.WSTransport, None]) -> None:
        super().__init__()
        self._everybody = everybody

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._everybody[transport] = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == _TEXT:
            answer = echo(frame.get_payload_as_utf8_text())
            transport.send(_TEXT, answer.encode())

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._everybody.pop(transport, None)
