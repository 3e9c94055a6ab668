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

__all__ = ["descriptor", "send"]

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


def descriptor(sock: socket.socket) -> int:
    """Return what `send` takes for a non-blocking socket: its descriptor, or -1.

    -1 stands for "by the portable way": nothing may be written past a TLS layer.
    """
    if _libc_send is None or isinstance(sock, ssl.SSLSocket):
        return -1
    return sock.fileno()


def send(sock: socket.socket, fd: int, data: bytes) -> int:
    """Send without waiting; return how many bytes the kernel took, 0 without room.

    Raises OSError when the connection is broken. The caller holds the lock under which the
    socket would be closed: a closed descriptor number is somebody else's at once.

    One function for all sockets, and not one made for each: among thousands of clients what
    a send touches beside the socket is not in the processor's cache.
    """
    if fd >= 0 and len(data) < _MAX_BYTES:
        sent = _libc_send(fd, data, len(data), _FLAGS)  # type: ignore[misc]  # or fd were -1
        if sent >= 0:
            return sent
    # TLS, or no room, or broken: the slow call finds out which, and names the error.
    try:
        return sock.send(data)
    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return 0
