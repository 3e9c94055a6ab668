"""A non-blocking socket, plain or TLS, that may be shut down from any thread.

Threads wait in `poll`, outside the lock:

- `shutdown` wakes every waiting thread, so no thread hangs and no lock is held meanwhile.
- Outgoing bytes go to the kernel from one buffer, in order; a sender waits until its own
  bytes are sent.
- The last thread that uses the descriptor closes it: were it closed while another thread
  waits on its number, that number could at once belong to another socket.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable

from ..reentrant import Lock

__all__ = ["READ", "WRITE", "Stream"]

READ, WRITE = 1, 2

_RECEIVE_BYTES = 64 * 1024


class Stream:
    """A socket with an outgoing buffer. `shutdown`, `push` and `wait` are for any thread.

    One thread owns it: it alone receives, and it calls `close` last.
    """

    def __init__(self, sock: socket.socket, clock: Callable[[], float]) -> None:
        sock.setblocking(False)
        self._clock = clock
        # guards: everything below, the descriptor and the TLS state with it. Taken after
        # the client's lock; only _pushing is taken under it. Re-entrant, so that a signal
        # handler may close a client of its own thread.
        self._lock = Lock()
        # guards: the first piece of _unsent, while it is handed to the kernel. Taken under
        # _lock, so only one thread ever holds it; it shows a nested `push` (from a signal
        # handler or a finaliser) that it is nested.
        self._pushing = Lock()
        self._sock = sock
        self._users = 1  # the owner, and each thread in `wait`
        self._over = ""  # why the connection has ended; "" while it has not
        self._unsent: deque[memoryview] = deque()
        self._sent = 0  # bytes that the kernel has taken so far
        self._owed = 0  # the mark that a nested push has left to the outer one

    # --- any thread ------------------------------------------------------------------------

    @property
    def sock(self) -> socket.socket:
        """The socket, for the thread that opens the connection."""
        return self._sock

    def shutdown(self, why: str) -> None:
        """End the connection in both directions and wake every thread that waits for it."""
        with self._lock:
            self._over = self._over or why
            if self._users:
                with contextlib.suppress(OSError):  # not connected (yet, or any more)
                    # socket.socket's own: an SSLSocket's would drop the TLS state first.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def append(self, data: bytes) -> int:
        """Queue bytes behind the unsent ones; return the mark for `push` to reach."""
        with self._lock:
            self._unsent.append(memoryview(data))
            return self._mark_locked()

    @property
    def unsent(self) -> int:
        """The number of bytes that the kernel has not taken yet."""
        with self._lock:
            return self._unsent_locked()

    def push(self, mark: int | None = None) -> int:
        """Send without waiting; return 0 when `mark` is reached, else the events to wait for.

        Without a mark, all that is queued is meant. A push nested in another one of the same
        thread (from a signal handler or a finaliser) leaves its bytes to the outer one, which
        does not return before they are sent. Raises OSError when the connection has ended.
        """
        with self._lock:
            self._check()
            if mark is None:
                mark = self._mark_locked()
            if self._pushing.locked():  # the first piece may be sent and still be queued
                self._owed = max(self._owed, mark)
                return 0
            while self._unsent:
                with self._pushing:
                    events = self._push_locked()
                if events:  # _owed is read after _pushing is free: no nested push can add to it
                    return 0 if self._sent >= max(mark, self._owed) else events
            return 0

    def _push_locked(self) -> int:
        """Send without waiting; return 0 when all is sent. The caller holds both locks."""
        assert self._pushing.locked()
        try:
            while self._unsent:
                piece = self._unsent[0]
                # After a failure the same piece again: OpenSSL requires it.
                count = self._sock.send(piece)
                self._sent += count
                if count == len(piece):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = piece[count:]
            return 0
        except ssl.SSLWantReadError:
            return READ
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            return WRITE
        except OSError:
            raise
        except BaseException:
            # KeyboardInterrupt: the piece may be sent or not, and must not be sent twice.
            self.shutdown("a send was interrupted")
            raise

    def _mark_locked(self) -> int:
        assert self._lock.locked()
        # Computed from both, because a nested call may have changed them in between. In this
        # order the sum is too high at worst, and an empty queue reaches every mark.
        unsent = self._unsent_locked()
        return unsent + self._sent

    def _unsent_locked(self) -> int:
        assert self._lock.locked()
        return sum(map(len, self._unsent.copy()))  # a copy, which no nested call changes

    def wait(self, events: int, deadline: float) -> bool:
        """Wait until the socket is ready or the connection has ended; False at `deadline`."""
        with self._lock:
            self._check()
            if events & READ and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                return True  # poll does not see bytes that are decrypted already
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
        """Raise ConnectionAbortedError when the connection has ended; the lock is held."""
        if self._over:
            raise ConnectionAbortedError(self._over)

    # --- the owner -------------------------------------------------------------------------

    def receive(self, size: int = _RECEIVE_BYTES) -> bytes | None:
        """Return received bytes; b"" at the end of the connection, None for nothing yet."""
        with self._lock:
            self._check()
            try:
                return self._sock.recv(size)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Complete the TLS handshake and check the server's name; raises OSError."""
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
        """Shut down, and close the descriptor once no thread waits on it."""
        self.shutdown("closed")
        self._leave()

    def discard(self) -> None:
        """Close the descriptor in a forked child; the parent's connection goes on."""
        self._sock.close()


def _poll(fd: int, events: int, timeout: float) -> bool:
    if not hasattr(select, "poll"):  # Windows
        read, write = [fd] if events & READ else [], [fd] if events & WRITE else []
        return any(select.select(read, write, [], timeout))
    poller = select.poll()
    poller.register(
        fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
    )
    # Rounded up: a wait that ends a fraction of a millisecond early would be repeated in a loop.
    return bool(poller.poll(int(timeout * 1000) + 1))
