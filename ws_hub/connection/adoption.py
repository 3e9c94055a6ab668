"""Takes a connection over from a WSGI server, so that the request thread can return.

A server closes the request's socket when the application returns. Adopting duplicates the
descriptor and then replaces the server's by one end of a throw-away socket pair, so that
the server writes to, drains, shuts down and closes only the throw-away.

A server that takes a failed write for a client that has gone can have a throw-away whose
other end is closed already. One pair serves all such connections of a process: the server
has nothing to write, to keep alive or to poll (`broken`).

Three traps (FAULTS 1c): the server's own descriptor is never closed here, because its
number would be reused while the server still watches it; non-blocking mode is shared by
both descriptors, so it is set only after the swap; and a connection that carries HTTP/2
must not be adopted at all.

A connection keeps its descriptor for as long as its peer likes. So the last descriptors
are left to the rest of the process: without any, pages fail, files cannot be opened, and
the accept loops of some servers spin (FAULTS 43).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from ..errors import AdoptionError

__all__ = ["Replacement", "adopt", "check_spare", "dismiss", "duplicate", "leave"]

_SPARE = 32  # descriptors that connections leave to the rest of the process
_LINGER = 0.5  # seconds that a refused peer has to end the connection
_LINGER_BYTES = 64 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Replacement:
    """The socket that a server has in the place of an adopted connection.

    Args:
        far_end: its other end; None for one that is closed.
    """

    __slots__ = ("_far_end",)

    def __init__(self, far_end: socket.socket | None) -> None:
        self._far_end = far_end

    def end_input(self) -> None:
        """Let the server's reads return the end of input at once."""
        if self._far_end is not None:
            self._far_end.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """End the server's connection; idempotent.

        To be called when the server has written its response: before that its writes would fail,
        and it would log errors that are none.
        """
        if self._far_end is not None:
            self._far_end.close()


def adopt(fd: int, *, broken: bool = False) -> tuple[socket.socket, Replacement]:
    """Take over the connection of a server's descriptor; return a socket of its own for it.

    `broken` is as in `leave`. Raises AdoptionError when `fd` is not a connected stream socket, and
    OSError when too few descriptors are left.

    Threads: the request thread, between the server's last read and its next write.
    """
    try:
        sock = duplicate(fd)
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        raise AdoptionError(
            f"cannot adopt the connection: descriptor {fd} is not a socket: {error}"
        ) from error
    try:
        if sock.type != socket.SOCK_STREAM:
            raise AdoptionError(
                f"cannot adopt the connection: descriptor {fd} is not a stream socket"
            )
        replacement = leave(fd, broken=broken)
    except BaseException:
        sock.close()
        raise
    return sock, replacement


def duplicate(fd: int) -> socket.socket:
    """Return a socket of its own for a connection; raises OSError, also when too few are left.

    Threads: any.
    """
    copy = os.dup(fd)
    try:
        sock = socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise
    try:
        check_spare(copy)
    except BaseException:
        sock.close()
        raise
    return sock


def check_spare(fd: int) -> None:
    """Raise OSError when a connection on this descriptor would leave too few to the rest.

    The system gives out the lowest free number, so a high number means that many are in use.

    Threads: any.
    """
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and fd >= limit - min(_SPARE, limit // 4):
            raise OSError(
                errno.EMFILE, f"{os.strerror(errno.EMFILE)}: descriptor {fd}, limit {limit}"
            )


def leave(fd: int, *, broken: bool = False) -> Replacement:
    """Put a throw-away in the place of a server's connection, which may have ended.

    Used alone for a connection that cannot be adopted (TLS inside the server): what the
    server then writes to it is discarded. With `broken` its writes fail instead.

    Threads: the request thread.
    """
    if broken:
        os.dup2(_broken(), fd, inheritable=False)
        return Replacement(None)
    near_end, far_end = socket.socketpair()
    with near_end:
        try:
            os.dup2(near_end.fileno(), fd, inheritable=False)
        except OSError:
            far_end.close()
            raise
    return Replacement(far_end)


_kept: list[int] = []  # the descriptors of `_broken`: none or one; changed by single calls


def _broken() -> int:
    """Return a socket's descriptor whose other end is closed; kept for the life of the process."""
    if not _kept:
        near_end, far_end = socket.socketpair()
        far_end.close()
        _kept.append(near_end.detach())  # beside another one, where two threads are the first
    return _kept[0]


def dismiss(sock: socket.socket, answer: bytes, *, broken: bool = False) -> Replacement | None:
    """Answer on a server's connection and end it; the server gets a throw-away in its place.

    The server cannot be told to close: an application must not set a `Connection` header. So
    the connection ends here, and all input behind the request is discarded: the server's next
    read returns the end of input and no further request. Returns None when no descriptor is
    left for a throw-away: then the server reads the end of the connection itself. `broken` is as
    in `leave`.

    Threads: the request thread; waits for the peer to end the connection, at most half a
    second.
    """
    patience = sock.gettimeout()
    with contextlib.suppress(OSError, ValueError):  # the peer has disconnected, or does not read
        sock.settimeout(_LINGER)
        sock.sendall(answer)
        _end_output(sock)
        _drain(sock, time.monotonic() + _LINGER)
    replacement = None
    try:
        replacement = leave(sock.fileno(), broken=broken)
    except OSError:
        with contextlib.suppress(OSError):  # further input makes the kernel reset the connection
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
            while socket.socket.recv(sock, _LINGER_BYTES, socket.MSG_DONTWAIT):
                pass
    else:
        replacement.end_input()
    with contextlib.suppress(OSError):
        if isinstance(sock, ssl.SSLSocket):
            sock.shutdown(socket.SHUT_RD)  # bypasses TLS, which has ended: see `leave`
        sock.settimeout(patience)
    return replacement


def _end_output(sock: socket.socket) -> None:
    """Send the end of TLS, if the socket has TLS, and the end of the output."""
    if isinstance(sock, ssl.SSLSocket):
        sock.setblocking(False)  # the peer's close_notify is not waited for
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()
    socket.socket.shutdown(sock, socket.SHUT_WR)


def _drain(sock: socket.socket, deadline: float) -> None:
    """Read until the peer has ended the connection too, within bounds.

    Closing with unread input makes the kernel send a reset, which can destroy the answer
    before the peer has read it.
    """
    left = _LINGER_BYTES
    while left > 0 and (patience := deadline - time.monotonic()) > 0:
        sock.settimeout(patience)
        data = socket.socket.recv(sock, _LINGER_BYTES)
        if not data:
            return
        left -= len(data)
