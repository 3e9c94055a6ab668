"""Takes a connection out of a WSGI server's hands and gives the request thread back.

Must not know WebSocket or environ. A server closes the request's socket when the app
returns. Adopting duplicates the descriptor and then puts one end of a throw-away
socket pair in the place of the server's, so that whatever the server still writes,
drains, shuts down or closes is the throw-away.

Three traps (FAULTS 1c): the server's own descriptor is never closed here, because its
number would be reused while the server still watches it; non-blocking mode belongs to
what both descriptors share, so it is set only after the swap; and a connection that
carries HTTP/2 must not come here at all.

A connection keeps its descriptor for as long as its peer likes. So the last ones are left
to everything else: without any, pages fail, files cannot be opened, and the accept loops
of some servers spin (FAULTS 43).
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

__all__ = ["ThrowAway", "adopt", "check_spare", "dismiss", "leave"]

_SPARE = 32  # descriptors that connections leave to everything else
_LINGER = 0.5  # seconds that a peer has to end a connection that was refused
_LINGER_BYTES = 64 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ThrowAway:
    """What a server has in the place of a connection that is ours now."""

    __slots__ = ("_far_end",)

    def __init__(self, far_end: socket.socket) -> None:
        self._far_end = far_end

    def end_input(self) -> None:
        """Let the server's reads find the end, and not wait."""
        self._far_end.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Let the server find its connection ended; idempotent.

        To be called when the server has written its response: before that, its
        writes would fail, and it would log what is no fault.
        """
        self._far_end.close()


def adopt(fd: int) -> tuple[socket.socket, ThrowAway]:
    """Take over the connection behind a server's descriptor; return our socket for it.

    Raises AdoptionError when `fd` is no connected stream socket, OSError when hardly a
    descriptor is left.

    Threads: the request thread, between the server's last read and its next write.
    """
    copy = -1
    try:
        copy = os.dup(fd)
        sock = socket.socket(fileno=copy)
    except OSError as error:
        if copy >= 0:
            os.close(copy)
        if error.errno in _EXHAUSTED:
            raise
        raise AdoptionError(f"descriptor {fd} is no socket: {error}") from error
    try:
        if sock.type != socket.SOCK_STREAM:
            raise AdoptionError(f"descriptor {fd} is no stream socket")
        check_spare(copy)
        throw_away = leave(fd)
    except BaseException:
        sock.close()
        raise
    with contextlib.suppress(OSError):  # a UNIX socket has no such option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, throw_away


def check_spare(fd: int) -> None:
    """Raise OSError when a connection on this descriptor would leave too few to the rest.

    The lowest free number is given out: so high a one says how many are in use.

    Threads: any.
    """
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and fd >= limit - min(_SPARE, limit // 4):
            raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}: {fd} of {limit}")


def leave(fd: int) -> ThrowAway:
    """Put a throw-away in the place of a server's connection, which may be over.

    Alone for a connection that could not be adopted (TLS inside the server): the
    server's attempts to answer on it come to nothing.

    Threads: the request thread.
    """
    near_end, far_end = socket.socketpair()
    with near_end:
        try:
            os.dup2(near_end.fileno(), fd, inheritable=False)
        except OSError:
            far_end.close()
            raise
    return ThrowAway(far_end)


def dismiss(sock: socket.socket, answer: bytes) -> ThrowAway | None:
    """Answer on a server's connection and end it; the server has a throw-away from then on.

    The server cannot be told to close: a `Connection` header of an application's is not
    its to set. So the connection ends here, and what the peer has sent behind its request
    is thrown away: the server's next read finds an end and no further request. Returns
    None where no descriptor is left for a throw-away: then the server meets the end of
    the connection itself.

    Threads: the request thread; waits for the peer to end too, at most half a second.
    """
    patience = sock.gettimeout()
    with contextlib.suppress(OSError, ValueError):  # the peer has left, or does not read
        sock.settimeout(_LINGER)
        sock.sendall(answer)
        _end_output(sock)
        _drain(sock, time.monotonic() + _LINGER)
    throw_away = None
    try:
        throw_away = leave(sock.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # what comes from now on makes the kernel reset
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
            while socket.socket.recv(sock, _LINGER_BYTES, socket.MSG_DONTWAIT):
                pass
    else:
        throw_away.end_input()
    with contextlib.suppress(OSError):
        if isinstance(sock, ssl.SSLSocket):
            sock.shutdown(socket.SHUT_RD)  # without what is left of TLS: see `leave`
        sock.settimeout(patience)
    return throw_away


def _end_output(sock: socket.socket) -> None:
    """Send the end of TLS, where there is TLS, and that of the connection."""
    if isinstance(sock, ssl.SSLSocket):
        sock.setblocking(False)  # its answer is not waited for
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()
    socket.socket.shutdown(sock, socket.SHUT_WR)


def _drain(sock: socket.socket, deadline: float) -> None:
    """Read until the peer has ended too, within bounds.

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
