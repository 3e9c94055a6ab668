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
from collections import deque
from collections.abc import Callable

from ..reentrant import Lock

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
        # the client's lock; nothing but the next is taken under it. Re-entrant, so that a signal
        # handler may close a client of its own thread.
        self._lock = Lock()
        # guards: the first piece of _unsent, while the kernel is given it. Taken under the
        # one above, so by nobody else; it tells a call within a push that it is one.
        self._pushing = Lock()
        self._sock = sock
        self._users = 1  # the owner, and each thread in `wait`
        self._over = ""  # why, once it is
        self._unsent: deque[memoryview] = deque()
        self._sent = 0  # bytes ever taken by the kernel
        self._owed = 0  # the mark that a push within a push has left to that

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
            return self._mark_locked()

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not taken yet."""
        with self._lock:
            return self._unsent_locked()

    def push(self, mark: int | None = None) -> int:
        """Hand the kernel what it takes; return 0 when `mark` is reached, else what to wait for.

        No mark stands for all that is queued. Within another push of the same thread, as from
        a signal handler or a finaliser, it is left to that, which does not return before.
        Raises OSError when the connection is over.
        """
        with self._lock:
            self._check()
            if mark is None:
                mark = self._mark_locked()
            if self._pushing.locked():  # the piece may be out and not yet off the queue
                self._owed = max(self._owed, mark)
                return 0
            while self._unsent:
                with self._pushing:
                    events = self._push_locked()
                if events:  # what is owed is looked at when nothing more can be left to this
                    return 0 if self._sent >= max(mark, self._owed) else events
            return 0

    def _push_locked(self) -> int:
        """Hand the kernel what it takes; the caller holds both locks."""
        assert self._pushing.locked()
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
            return 0
        except ssl.SSLWantReadError:
            return READ
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            return WRITE
        except OSError:
            raise
        except BaseException:
            # KeyboardInterrupt: whether the piece is out is unknown, and twice it must not be.
            self.shutdown("a send was interrupted")
            raise

    def _mark_locked(self) -> int:
        assert self._lock.locked()
        # Counted anew: a call within `append` or a push may have changed both. In this order
        # it is too high at worst, and with nothing unsent every mark is reached.
        unsent = self._unsent_locked()
        return unsent + self._sent

    def _unsent_locked(self) -> int:
        assert self._lock.locked()
        return sum(map(len, self._unsent.copy()))  # which a call within this cannot change

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
