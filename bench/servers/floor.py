"""The cheapest server that Python can be: one ready frame, a loop of non-blocking sends.

Must not do anything that a WebSocket server has to do beside accepting: no reading, no
queue, no lock, no clients that come and go. What it costs is the price of the system
calls, each made from Python: below it are only peers whose loop over the clients, or whose
call in it, is compiled.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import threading

from ws_hub.protocol.frames import text_frame

from .base import Publish, Server, ready_text

__all__ = ["Floor", "JoinedFloor"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Floor(Server):
    """Sends each publication to each client."""

    def start(self) -> int:
        self._socks: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        return int(self._listener.getsockname()[1])

    def clients(self) -> int:
        return len(self._socks)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        frame = text_frame(ready_text(target, size).encode())
        return lambda: self._send(frame)

    def _send(self, data: bytes) -> None:
        size = len(data)
        for sock in self._socks:
            if sock.send(data) != size:
                raise RuntimeError("a socket buffer is full: the load is the bound")

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(4096)
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % base64.b64encode(hashlib.sha1(key + _GUID).digest())
            )
            sock.setblocking(False)
            self._socks.append(sock)


class JoinedFloor(Floor):
    """Sends a burst to each client in one call: what joining could reach at best."""

    def publisher(self, target: str, size: int, count: int) -> Publish:
        joined = text_frame(ready_text(target, size).encode()) * count
        left = count

        def publish() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._send(joined)

        return publish
