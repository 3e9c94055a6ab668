"""Calls of the kernel that never wait and, where possible, never release the GIL.

`socket.send` releases the GIL around the system call. With another thread spinning in
Python, taking it back costs a switch interval (5 ms) for each client: half a second for a
broadcast to a hundred. A non-blocking send takes microseconds and can keep the GIL:
`ctypes.PyDLL` calls `send(2)` without releasing it. TLS sockets, Windows and a libc
without the symbol use `socket.send`, with the same result. So do receiving what has come, and
registering with an epoll.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from ..reentrant import Lock

__all__ = [
    "DirectSocket",
    "Reachable",
    "keeps_blocking",
    "receive_at_once",
    "send_to_each",
    "wait_for_input",
]

T = TypeVar("T")

_AT_ONCE: int = getattr(socket, "MSG_DONTWAIT", 0)
_FLAGS: int = _AT_ONCE | getattr(socket, "MSG_NOSIGNAL", 0)
_TLS_WAIT = 0.002  # seconds to wait for the reader, which is mostly inside OpenSSL for microseconds
_RECORD_BYTES = 16 * 1024  # of a TLS record, which OpenSSL takes whole or wants again
_MAX_BYTES = 1 << 30  # of one call: the length is passed as a C int, see _load
# Machines on which libffi widens an int to the register that `send` reads its size_t from.
_WIDENING = ("x86_64", "amd64", "aarch64", "arm64")

_LibcSend = Callable[[int, bytes, int, int], int]


def _load(name: str, result: Any, *types: Any) -> Any:
    """Return a function of libc that is called with the GIL held; None where there is none.

    `result` is the type of its result, `types` are those of its arguments.
    """
    if os.name != "posix" or not _AT_ONCE:
        return None
    try:
        function = getattr(ctypes.PyDLL(None), name)
    except (OSError, AttributeError):  # no libc to be loaded: the calls of Python are used
        return None
    function.restype = result
    if types:
        function.argtypes = types
    return function


def _load_send() -> _LibcSend | None:
    types = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    # No types, on purpose, where they are not needed: converting four arguments by their declared
    # types, and fetching errno, would make the call a fifth slower than the one that it replaces.
    widens = os.name == "posix" and platform.machine().lower() in _WIDENING
    send: _LibcSend | None = _load("send", ctypes.c_ssize_t, *(() if widens else types))
    return send


_libc_send = _load_send()
_libc_recv: Callable[[int, object, int, int], int] | None = _load(
    "recv", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
)
_libc_poll: Callable[[object, int, int], int] | None = _load(
    "poll", ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_int
)
_libc_epoll_ctl: Callable[[int, int, int, bytes], int] | None = _load(
    "epoll_ctl", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p
)

_POLLFD = struct.Struct("@ihh")  # descriptor, events, revents
_EPOLL_CTL_ADD = 1
# struct epoll_event (epoll_event(3type)), which is packed on x86-64 alone.
_IS_PACKED = hasattr(os, "uname") and os.uname().machine == "x86_64"
_EPOLL_EVENT = struct.Struct("=IQ" if _IS_PACKED else "@IQ")


def wait_for_input(epoll: select.epoll, fd: int) -> None:
    """Register a descriptor for input, without giving up the GIL where possible.

    Raises OSError, as `epoll.register` does.
    """
    if _libc_epoll_ctl is not None:
        event = _EPOLL_EVENT.pack(select.EPOLLIN, fd)
        if _libc_epoll_ctl(epoll.fileno(), _EPOLL_CTL_ADD, fd, event) == 0:
            return
    epoll.register(fd, select.EPOLLIN)  # the slower call finds out what it is, and raises that


def receive_at_once(sock: socket.socket, most: int) -> bytes:
    """Receive what is there, at most so many bytes, without giving up the GIL where possible.

    For a socket that is known to be readable: letting go of the GIL would have this thread wait
    for those that want it. Raises as `socket.recv` does, BlockingIOError among it.
    """
    if _libc_recv is not None:
        buffer = ctypes.create_string_buffer(most)
        size = _libc_recv(sock.fileno(), buffer, most, _AT_ONCE)
        if size >= 0:
            return buffer.raw[:size] if size else b""
    return sock.recv(most, _AT_ONCE)  # the slower call finds out what it is, and raises that


class DirectSocket:
    """One non-blocking socket, to which frames go directly: without the GIL being given up.

    A small object of its own on purpose: between two clients the kernel's work evicts the
    processor's cache, and a broadcast to thousands of clients waits for each object it touches.

    Attributes:
        lock: held for every use of the socket that must not coincide with its close.
        fd: the descriptor for `send_to_each` while bytes may go directly to the kernel; else
            -1. Read and written under the lock.
        torn: the bytes that TLS has begun to write and the kernel did not take whole. The next
            send must begin with them: they are encrypted and partly sent.
        tls: held for each use of OpenSSL, which must not be entered twice; None without TLS.
            The reader may hold it for long, while its peer sends records without data.
    """

    __slots__ = ("_fd", "_sock", "fd", "lock", "tls", "torn")

    def __init__(self, sock: socket.socket) -> None:
        # guards: fd; for the transport and the sender, the socket against use after close, and
        # the outbox that feeds it (see sender). The last in the order: taken after every other.
        self.lock = Lock()
        self.fd = -1
        self._sock: socket.socket | None = sock
        # guards: the state of TLS. Taken after `lock` and then not waited for, or alone.
        self.tls = Lock() if isinstance(sock, ssl.SSLSocket) else None
        # Bytes must not bypass a TLS layer.
        self._fd = sock.fileno() if self.tls is None and _libc_send is not None else -1
        self.torn = b""

    def open(self) -> None:
        """Let frames go directly to the kernel, where that is possible. Under the lock."""
        self.fd = self._fd

    def shut(self) -> None:
        """Let no more frames go directly to the kernel. Under the lock."""
        self.fd = -1

    def forget(self) -> None:
        """Shut it for good and forget the descriptor before it is closed. Under the lock.

        From then on its number may be another socket's: `open` has no effect, `send` raises.
        """
        self.fd = self._fd = -1
        self._sock = None

    def sever(self) -> None:
        """Shut it, and end the connection: what of a frame was sent is unknown. Under the lock."""
        self.shut()
        if self._sock is not None:
            with contextlib.suppress(OSError):  # the peer has disconnected
                self._sock.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes, patience: float = _TLS_WAIT) -> int:
        """Send without waiting; return how many bytes the kernel took, 0 without room.

        Bytes that are in `torn` afterwards are not counted, although they have begun. `patience`
        is how many seconds to wait while the reader is inside OpenSSL; after that nothing is sent.
        Raises OSError when the connection is broken. Under the lock: the number of a closed
        descriptor is reused at once.
        """
        if self._fd >= 0 and len(data) < _MAX_BYTES:
            sent = _libc_send(self._fd, data, len(data), _FLAGS)  # type: ignore[misc]  # else it is -1
            if sent >= 0:
                return sent
        if self._sock is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.tls is not None:
            send = functools.partial(self._send_records, self._sock, data)
            return self.inside_tls(send, patience) or 0
        # No room, or broken: the slower call finds out which, and raises the error.
        try:
            return self._sock.send(data, _FLAGS)
        except BlockingIOError:
            return 0

    def inside_tls(self, use: Callable[[], T], patience: float) -> T | None:
        """Call `use` inside OpenSSL; None when the reader is inside it for `patience` seconds."""
        assert self.tls is not None
        try:
            self.tls.acquire(timeout=patience)
            return use() if self.tls.locked() else None
        finally:  # also after a KeyboardInterrupt right after `acquire`
            if self.tls.locked():
                self.tls.release()

    def _send_records(self, sock: socket.socket, data: bytes) -> int:
        """Send by way of OpenSSL, as `send` does.

        An unfinished write must be repeated with the same bytes (SSL_write(3)). So OpenSSL gets
        one record at a time, which it takes whole or not at all.
        """
        sent = 0
        while sent < len(data):
            record = self.torn or data[sent : sent + _RECORD_BYTES]
            assert data.startswith(record, sent), "what TLS has begun comes first"
            try:
                sent += sock.send(record)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self.torn = record
                break
            self.torn = b""
        return sent

    def has_room(self) -> bool:
        """Return whether the socket is writable: a good part of the kernel's buffer is free.

        Also True when the connection is broken; the next send raises that. Under the lock.
        """
        fd = -1 if self._sock is None else self._sock.fileno()
        if fd < 0:
            return True
        if _libc_poll is not None:
            entry = ctypes.create_string_buffer(_POLLFD.pack(fd, select.POLLOUT, 0), _POLLFD.size)
            return _libc_poll(entry, 1, 0) != 0
        return bool(select.select([], [fd], [], 0)[1])


def keeps_blocking(sock: socket.socket) -> bool:
    """Return whether sends do not wait although the socket is in blocking mode.

    A TLS socket takes no flags, and not every system has MSG_DONTWAIT.
    """
    flagged = bool(_FLAGS & getattr(socket, "MSG_DONTWAIT", 0))
    return flagged and not isinstance(sock, ssl.SSLSocket)


class Reachable(Protocol):
    """A target of `send_to_each`."""

    @property
    def direct(self) -> DirectSocket | None:
        """The direct path to its socket; None where there never is one."""


R = TypeVar("R", bound=Reachable)


def send_to_each(targets: Iterable[R], data: bytes, begun: Callable[[R, int], None]) -> Iterator[R]:
    """Send to each target in turn, without waiting and without releasing the GIL.

    Yields the targets to which nothing was sent: their direct path is shut, or has no room.
    Where the kernel took a part, calls `begun`, under the lock, with the number of bytes.
    """
    # The hot loop, run for every message and client: its only call is the system call.
    size = len(data)
    if _libc_send is None or size >= _MAX_BYTES:
        yield from targets
        return
    send, flags = _libc_send, _FLAGS
    for target in targets:
        direct = target.direct
        if direct is not None:
            with direct.lock:
                if direct.fd >= 0:
                    sent = send(direct.fd, data, size, flags)
                    if sent == size:
                        continue
                    if sent > 0:
                        try:
                            begun(target, sent)
                        except BaseException:  # the rest may not follow
                            direct.sever()
                            raise
                        continue
        yield target
