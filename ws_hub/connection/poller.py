"""Calls back when a socket has room: one thread that waits for all full sockets.

The hub thread requests callbacks and never waits; the thread is started by the first
request.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
from collections.abc import Callable

from .. import threads
from ..log import get_logger
from .fast_send import DirectSocket

__all__ = ["Poller"]

logger = get_logger(__name__)

Call = Callable[[], None]
Start = Callable[[str, Call, Callable[[], bool]], threads.DeferredThread | None]


class Poller:
    """Calls a function once when a socket becomes writable.

    A descriptor is only a number here: nothing is written to it, so one that was closed, and
    perhaps reused for another socket, costs one unnecessary call. That is why it is poll(2) and
    not epoll: the kernel keeps no list in which a closed socket could stay for as long as a
    forked child has a copy of it.

    Args:
        start: starts a thread soon, and does not wait; see `Sender`.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._thread: threads.DeferredThread | None = None
        # Whether requests are accepted. Changed by the requesting thread, and under the lock of
        # `_wake` by the thread that closes it.
        self._open = False
        self._selector: selectors.BaseSelector | None = None
        self._wake: DirectSocket | None = None
        self._ends: tuple[socket.socket, ...] = ()
        # guards: itself. Filled by the requesting thread; emptied by the poller's.
        self._requests: queue.SimpleQueue[tuple[int, Call | None, bool]] = queue.SimpleQueue()
        self._woken = False  # set before the poller's thread is woken, which clears it

    # --- the requesting thread -------------------------------------------------------------

    def watch(self, fd: int, call: Call) -> bool:
        """Have `call` called, once, when a socket has room or has ended.

        False when no thread can be started to wait for it.

        Threads: one; does not wait. `call` is called on the poller's thread.
        """
        if self._thread is None:
            self._begin()
        if not self._open:
            return False
        self._ask(fd, call, True)
        return self._open  # read again: the thread may have ended before this request

    def unwatch(self, fd: int, call: Call) -> None:
        """Cancel a request of `watch`, if it is still pending.

        Threads: that of `watch`; does not wait.
        """
        if self._open:
            self._ask(fd, call, False)

    def close(self) -> None:
        """Let the thread end. Idempotent.

        Threads: that of `watch`; does not wait.
        """
        if self._open:
            self._ask(-1, None, False)
            self._open = False

    def join(self, timeout: float) -> bool:
        """Wait for the end of the thread; return whether it has ended.

        Threads: any; at most `timeout` seconds.
        """
        return self._thread is None or self._thread.join(timeout)

    def _begin(self) -> None:
        ours, other = socket.socketpair()
        for end in (ours, other):
            end.setblocking(False)
        self._ends = (ours, other)
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._selector.register(ours, selectors.EVENT_READ)
        self._wake = DirectSocket(other)
        threads.forget_after_fork(self)
        self._open = True
        self._thread = self._start("ws-hub:poller", self._run, self._step)
        if self._thread is None:
            self._release()

    def _ask(self, fd: int, call: Call | None, watch: bool) -> None:
        self._requests.put((fd, call, watch))
        # Read after the put, and cleared before the queue is emptied: a request that finds it set
        # will be found in the queue.
        if not self._woken and self._wake is not None:
            self._woken = True
            with self._wake.lock, contextlib.suppress(OSError):
                if self._open:  # otherwise the descriptor may be reused
                    self._wake.send(b"\0")  # keeps the GIL, unlike `socket.send`

    def forget(self) -> None:
        """Close the descriptors, in a forked child.

        Threads: the only one of a forked child.
        """
        # without the lock: a thread of the parent may hold it, which the child does not have
        self._give_up()

    def _release(self) -> None:
        assert self._wake is not None
        with self._wake.lock:
            self._give_up()

    def _give_up(self) -> None:
        self._open = False
        if self._selector is not None:
            self._selector.close()
        for end in self._ends:
            end.close()

    # --- the poller's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn(None):
                pass
        finally:
            self._release()

    def _step(self) -> bool:
        """Do one turn of the thread's work without waiting, where it cannot be started."""
        goes_on = self._turn(0.0)
        if not goes_on:
            self._release()
        return goes_on

    def _turn(self, timeout: float | None) -> bool:
        """Wait for room or a request, and call back; False at the end."""
        assert self._selector is not None
        try:
            events = self._selector.select(timeout)  # woken by `_ask`
        except (OSError, ValueError):  # of select(2) alone: a closed descriptor, or too many
            self._call_watched()
            events = []
        for key, _ in events:
            if key.data is not None:
                self._selector.unregister(key.fd)
                key.data()
        with contextlib.suppress(OSError):
            self._ends[0].recv(4096)
        self._woken = False
        with contextlib.suppress(queue.Empty):
            while True:
                fd, call, watch = self._requests.get_nowait()
                if call is None:
                    return False
                if watch:
                    self._register(fd, call)
                else:
                    self._unregister(fd, call)
        return True

    def _call_watched(self) -> None:
        assert self._selector is not None
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._selector.unregister(key.fd)
                key.data()

    def _register(self, fd: int, call: Call) -> None:
        assert self._selector is not None
        old = self._selector.get_map().get(fd) if fd >= 0 else None
        if fd < 0 or (old is not None and old.data is None):
            call()  # closed, or its number is reused by `_ends`: the callee finds out by sending
            return
        if old is not None:
            # The descriptor was reused for another socket, or is requested twice.
            self._selector.unregister(fd)
            if old.data is not call:
                old.data()
        self._selector.register(fd, selectors.EVENT_WRITE, call)

    def _unregister(self, fd: int, call: Call) -> None:
        assert self._selector is not None
        key = self._selector.get_map().get(fd) if fd >= 0 else None
        if key is not None and key.data is call:
            self._selector.unregister(fd)
