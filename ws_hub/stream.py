"""A socket that never blocks inside a call and may be shut down from any thread.

Must not know WebSocket. Non-blocking, plain or TLS; waiting is `poll` outside the lock:

- `shutdown` wakes every waiter, so nothing hangs and no lock is held while waiting.
- Bytes out go to the kernel from one buffer, in order; a sender waits for its own.
- The descriptor is closed by whoever leaves last: a number that another thread still
  waits on would be somebody else's socket at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["READ", "WRITE", "Stream"]

READ, WRITE = 1, 2

_RECEIVE_BYTES = 64 * 1024


class Stream:
    """A non-blocking socket, plain or TLS, that may be shut down from any thread.

    Owned by one thread, which calls `close` last; `wait` and `push` are for any thread.
    """

    def __init__(self, sock: socket.socket, clock: Callable[[], float]) -> None:
        sock.setblocking(False)
        self._clock = clock
        # guards: everything below, the descriptor and the TLS state with it. Taken after
        # the client's lock; nothing is taken under it. Re-entrant, so that a signal
        # handler may close a client of its own thread.
        self._lock = threading.RLock()
        self._sock = sock
        self._users = 1  # the owner, and each thread in `wait`
        self._over = ""  # why, once it is
        self._unsent: deque[memoryview] = deque()
        self._queued = 0  # bytes ever appended
        self._sent = 0  # bytes ever taken by the kernel

    # --- any thread ------------------------------------------------------------------------

    @property
    def sock(self) -> socket.socket:
        """The socket, for the one thread that sets the connection up."""
        return self._sock

    def shutdown(self, why: str) -> None:
        """End the connection in both directions and wake whoever waits for it."""
        with self._lock:
            self._over = self._over or why
            if self._users:
                with contextlib.suppress(OSError):  # not connected (yet, or any more)
                    # On a TLS socket this is the plain shutdown of the one below it.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def append(self, data: bytes) -> int:
        """Put bytes behind all that is unsent; return the mark that `sent` will reach."""
        with self._lock:
            self._unsent.append(memoryview(data))
            self._queued += len(data)
            return self._queued

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not taken yet."""
        with self._lock:
            return self._queued - self._sent

    def push(self, mark: int | None = None) -> int:
        """Hand the kernel what it takes; return 0 when `mark` is reached, else what to wait for.

        No mark stands for all that is queued. Raises OSError when the connection is over.
        """
        with self._lock:
            self._check()
            if mark is None:
                mark = self._queued
            try:
                while self._unsent:
                    piece = self._unsent[0]
                    # The same piece again after a failure: OpenSSL insists on it.
                    count = self._sock.send(piece)
                    self._sent += count
                    if count == len(piece):
                        self._unsent.popleft()
                    else:
                        self._unsent[0] = piece[count:]
            except ssl.SSLWantReadError:
                return 0 if self._sent >= mark else READ
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                return 0 if self._sent >= mark else WRITE
            return 0

    def wait(self, events: int, deadline: float) -> bool:
        """Wait until the socket is ready or the connection over; False when time is up."""
        with self._lock:
            self._check()
            if events & READ and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                return True  # bytes decrypted already are invisible to poll
            self._users += 1
            fd = self._sock.fileno()
        try:
            return _poll(fd, events, max(deadline - self._clock(), 0.0))
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._sock.close()

    def _check(self) -> None:
        """The caller holds the lock."""
        if self._over:
            raise ConnectionAbortedError(self._over)

    # --- the owner -------------------------------------------------------------------------

    def receive(self, size: int = _RECEIVE_BYTES) -> bytes | None:
        """Return what has come in: b"" at the end of the connection, None for nothing yet."""
        with self._lock:
            self._check()
            try:
                return self._sock.recv(size)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Shake hands for TLS and check the server's name; raises OSError."""
        with self._lock:
            self._check()
            tls = context.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
            self._sock = tls
        while True:
            events = READ
            with self._lock:
                self._check()
                try:
                    tls.do_handshake()
                    return
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLWantWriteError:
                    events = WRITE
            if not self.wait(events, deadline):
                raise TimeoutError("no TLS connection in time")

    def close(self) -> None:
        """Shut down and give the descriptor back, once nobody waits on it."""
        self.shutdown("closed")
        self._leave()

    def discard(self) -> None:
        """Close the descriptor of a forked child; the parent's connection goes on."""
        self._sock.close()


def _poll(fd: int, events: int, timeout: float) -> bool:
    if not hasattr(select, "poll"):  # Windows
        read, write = [fd] if events & READ else [], [fd] if events & WRITE else []
        return any(select.select(read, write, [], timeout))
    poller = select.poll()
    poller.register(
        fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
    )
    # Rounded up: a wait cut short by a fraction of a millisecond would spin.
    return bool(poller.poll(int(timeout * 1000) + 1))
