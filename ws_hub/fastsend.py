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
import errno
import os
import socket
import ssl
from collections.abc import Callable

__all__ = ["Send", "sender"]

Send = Callable[[bytes], int]

_WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK)
_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


def _load() -> Callable[[int, bytes, int, int], int] | None:
    if os.name != "posix" or not hasattr(socket, "MSG_DONTWAIT"):
        return None
    try:
        function = ctypes.PyDLL(None, use_errno=True).send
    except (OSError, AttributeError):  # no libc by that way: the portable sender serves
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
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


def _keeping_gil(sock: socket.socket, libc_send: Callable[[int, bytes, int, int], int]) -> Send:
    fd = sock.fileno()

    def send(data: bytes) -> int:
        while True:
            sent = libc_send(fd, data, len(data), _FLAGS)
            if sent >= 0:
                return sent
            code = ctypes.get_errno()
            if code in _WOULD_BLOCK:
                return 0
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    return send


def _portable(sock: socket.socket) -> Send:
    def send(data: bytes) -> int:
        try:
            return sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    return send
