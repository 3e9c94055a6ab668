"""The cheapest server that Python can be: one ready frame, a loop of non-blocking sends.

Must not do anything that a WebSocket server has to do beside accepting: no reading, no
queue, no lock, no clients that come and go. What it costs is the price of the system
calls, each made from Python: below it are only peers whose loop over the clients, or whose
call in it, is compiled. `CompiledFloor` is that loop in C, which no server with one call a
client and message can be below.
"""

from __future__ import annotations

import array
import base64
import ctypes
import hashlib
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from ws_hub.protocol.frames import text_frame

from ..programs import PROGRAMS
from .base import Publish, Server, ready_text

__all__ = ["CompiledFloor", "Floor", "JoinedFloor", "accepting"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def accepting(key: bytes) -> bytes:
    """Return the answer that accepts the handshake with a key."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        % base64.b64encode(hashlib.sha1(key + _GUID).digest())
    )


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
            sock.sendall(accepting(key))
            sock.setblocking(False)
            self._socks.append(sock)


class CompiledFloor(Floor):
    """Does the same by a loop in C, which is compiled at the start."""

    def start(self) -> int:
        source = Path(__file__).with_name("floor.c")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "floor.so")
            compiler = str(PROGRAMS["cc"].find())
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
            self._loop = ctypes.CDLL(str(library)).send_to_each
        self._loop.argtypes = ctypes.c_void_p, ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t
        self._loop.restype = ctypes.c_long
        self._numbers = array.array("i")
        return super().start()

    def _send(self, data: bytes) -> None:
        if len(self._numbers) != len(self._socks):
            self._numbers = array.array("i", [sock.fileno() for sock in self._socks])
        address, count = self._numbers.buffer_info()
        if self._loop(address, count, data, len(data)) != count:
            raise RuntimeError("a socket buffer is full: the load is the bound")


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
