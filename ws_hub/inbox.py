"""A bounded queue between a thread that must go on reading and callbacks that may be slow.

Must not know what is in it. A full inbox first makes its reader wait, so that a short
stall costs nothing (the network's buffers fill and slow the sender down). After
`patience` seconds it refuses instead, until half of it is free: a reader that waits
longer would leave pings unanswered, and the server would cut it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .reentrant import Lock
from .workers import longest_wait

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items in order, bounded in number and bytes, for one reader and any takers.

    Args:
        max_items: how many offered items wait at most.
        max_bytes: how many bytes they have at most; one item alone may have more.
        patience: seconds that offers wait, in all, from when it is full until half of it
            is free again.
        clock: monotonic seconds.
    """

    def __init__(
        self, max_items: int, max_bytes: int, patience: float, clock: Callable[[], float]
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._patience = patience
        self._clock = clock
        # guards: everything below; waited on for an item, for room, or for the end.
        # Taken alone.
        self._lock = Lock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[tuple[T, int, bool]] = deque()  # item, bytes, whether it counts
        self._count = 0
        self._bytes = 0
        self._full_since: float | None = None
        self._refusing = False
        self._relieved = False
        self._ended = False
        self._stopped = False

    # --- the reading thread ----------------------------------------------------------------

    def offer(self, item: T, size: int, *, wait: bool = True) -> bool:
        """Add an item of `size` bytes; False when there is no room for it.

        Waits for room at most the rest of the patience; not at all without `wait`.
        """
        with self._lock:
            while not self._stopped and not self._refusing and self._is_full(size):
                now = self._clock()
                if self._full_since is None:
                    self._full_since = now
                left = self._full_since + self._patience - now if wait else 0.0
                if left <= 0:
                    self._refusing = True
                else:
                    self._changed.wait(left)
            if self._stopped or self._refusing:
                return False
            self._items.append((item, size, True))
            self._count += 1
            self._bytes += size
            self._changed.notify_all()
            return True

    def _is_full(self, size: int) -> bool:
        return self._count >= self._max_items or (
            self._count > 0 and self._bytes + size > self._max_bytes
        )

    # --- any thread ------------------------------------------------------------------------

    def post(self, item: T) -> None:
        """Add an item that does not count: what happens to the connection, not what it says."""
        with self._lock:
            self._items.append((item, 0, False))
            self._changed.notify_all()

    def take(self) -> T | None:
        """Wait for the next item; None when the inbox has ended and nothing is left."""
        with self._lock:
            while not self._items:
                if self._ended:
                    return None
                self._changed.wait(longest_wait())  # woken by an item or by `end`
            item, size, counts = self._items.popleft()
            if counts:
                self._count -= 1
                self._bytes -= size
                if self._count * 2 <= self._max_items and self._bytes * 2 <= self._max_bytes:
                    self._full_since = None
                    self._relieved = self._relieved or self._refusing
                    self._refusing = False
                self._changed.notify_all()
            return item

    def was_relieved(self) -> bool:
        """Say, once, that it has room again after it refused something."""
        with self._lock:
            relieved, self._relieved = self._relieved, False
            return relieved

    def begin(self) -> None:
        """Take items (again)."""
        with self._lock:
            self._ended = False

    def end(self) -> None:
        """Let the takers have what is left, and then None."""
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Refuse every offer from now on and drop what was offered; what was posted stays."""
        with self._lock:
            self._stopped = True
            self._items = deque(each for each in self._items if not each[2])
            self._count = self._bytes = 0
            self._changed.notify_all()
