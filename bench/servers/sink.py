"""The other end of a control run: answers the handshake, and reads everything.

`python -m bench.servers.sink`: what an attacker costs the machine by itself, when nothing
is made of what it sends.
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import threading
from collections.abc import Callable

from ..control import Answer
from .base import Publish, Server

__all__ = ["Sink"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BUFFER_BYTES = 1024 * 1024
_HEAD = 16 * 1024


class Sink(Server):
    """One thread, epoll, and a buffer that nobody looks at."""

    def start(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._heads: dict[int, bytes] = {}  # descriptor -> what has come of a request
        self._socks: dict[int, socket.socket] = {}
        self._bytes = 0
        threading.Thread(target=self._serve, name="serve", daemon=True).start()
        return int(self._listener.getsockname()[1])

    def clients(self) -> int:
        return len(self._socks) - len(self._heads)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        raise ValueError("a sink says nothing")

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        return {"await_clients": self.await_clients, "usage": self.usage}

    def usage(self) -> Answer:
        """Return how many bytes have come after the handshakes."""
        return {"bytes": self._bytes}

    def _serve(self) -> None:
        buffer = bytearray(_BUFFER_BYTES)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                    continue
                try:
                    size = self._socks[fd].recv_into(buffer)
                except OSError:
                    size = 0
                if not size:
                    self._poll.unregister(fd)
                    self._heads.pop(fd, None)
                    self._socks.pop(fd).close()
                elif fd in self._heads:
                    self._answer(fd, bytes(buffer[:size]))
                else:
                    self._bytes += size

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        self._socks[sock.fileno()] = sock
        self._heads[sock.fileno()] = b""
        self._poll.register(sock, select.EPOLLIN)

    def _answer(self, fd: int, data: bytes) -> None:
        """Take more of a request; answer it when it is whole."""
        head, end, rest = (self._heads[fd] + data).partition(b"\r\n\r\n")
        if not end:
            self._heads[fd] = head[:_HEAD]
            return
        del self._heads[fd]
        self._bytes += len(rest)
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        digest = hashlib.sha1(fields[b"Sec-WebSocket-Key"] + _GUID).digest()  # noqa: S324
        self._socks[fd].send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
        )


if __name__ == "__main__":
    Sink().main()
