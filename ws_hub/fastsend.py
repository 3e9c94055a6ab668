"""One send that never waits and, where it can, never lets go of the GIL.

Must not know frames, outboxes or threads.

`socket.send` releases the GIL around the system call. With another thread spinning
in Python, taking it back costs a switch interval (5 ms), once a client: half a second
for a broadcast to a hundred. A non-blocking send takes microseconds and can keep it:
`ctypes.PyDLL` calls `send(2)` without releasing. TLS sockets, Windows and a libc
without the symbol use `socket.send` with the same meaning.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import ssl
from collections.abc import Callable

__all__ = ["Send", "sender"]

Send = Callable[[bytes], int]

_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_MAX_BYTES = 1 << 30  # of one call: the length is passed as a C int, see _load
# Where libffi widens an int to the register that `send` reads its size_t from.
_WIDENING = ("x86_64", "amd64", "aarch64", "arm64")

_LibcSend = Callable[[int, bytes, int, int], int]


def _load() -> _LibcSend | None:
    """Return libc's `send`, called with the GIL held; None where there is no such way."""
    if os.name != "posix" or not hasattr(socket, "MSG_DONTWAIT"):
        return None
    try:
        function = ctypes.PyDLL(None).send
    except (OSError, AttributeError):  # no libc by that way: the portable sender serves
        return None
    if platform.machine().lower() not in _WIDENING:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    # Otherwise none, on purpose: converting four arguments by their declared types, and
    # fetching errno, makes the call a fifth slower than the one it is to replace.
    function.restype = ctypes.c_ssize_t
    return function


_libc_send = _load()


def sender(sock: socket.socket) -> Send:
    """Return the fastest `send(data) -> int` for a non-blocking socket.

    It returns how many bytes the kernel took, 0 when it has no room; it raises
    OSError when the connection is broken. The caller holds the lock under which the
    socket would be closed: a closed descriptor number is somebody else's at once.
    """
    if _libc_send is None or isinstance(sock, ssl.SSLSocket):
        return _portable(sock)
    return _keeping_gil(sock, _libc_send)


def _keeping_gil(sock: socket.socket, libc_send: _LibcSend) -> Send:
    fd = sock.fileno()
    portable = _portable(sock)

    def send(data: bytes) -> int:
        if len(data) < _MAX_BYTES:
            sent = libc_send(fd, data, len(data), _FLAGS)
            if sent >= 0:
                return sent
        # No room, or broken: the slow call finds out which, and names the error.
        return portable(data)

    return send


def _portable(sock: socket.socket) -> Send:
    def send(data: bytes) -> int:
        try:
            return sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    return send
