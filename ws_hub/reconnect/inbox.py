"""A bounded queue between the receiving thread and callbacks that may be slow.

A full inbox first makes the receiving thread wait: during a short stall nothing is lost,
because the network's buffers fill and slow the server down. After `patience` seconds it
refuses messages instead, until half of it is free: a receiving thread that waits longer
leaves pings unanswered, and the server ends the connection.

A report of lost messages always finds room. Beyond a bound it is merged with the newest
queued report of its kind.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..reentrant import Lock
from ..threads import longest_wait

__all__ = ["Inbox"]

T = TypeVar("T")

_MAX_REPORTS = 256  # queued one by one; beyond this, at most one more of each kind


@dataclass(slots=True)
class _Entry(Generic[T]):
    item: T
    size: int = 0
    counts: bool = False
    kind: Hashable = None  # of a report


class Inbox(Generic[T]):
    """A FIFO queue, bounded in items and bytes, for one producer and any consumers.

    Args:
        max_items: how many offered items it holds at most.
        max_bytes: how many bytes these have at most; a single item may have more.
        patience: seconds that offers wait, all together, from the moment it is full until
            half of it is free again.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, max_items: int, max_bytes: int, patience: float, clock: Callable[[], float]
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._patience = patience
        self._clock = clock
        # guards: everything below; waited on for an item, for room, or for the end.
        # Taken alone: no other lock is taken under it.
        self._lock = Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: deque[_Entry[T]] = deque()
        self._reports: dict[Hashable, _Entry[T]] = {}  # the newest of each kind that waits
        self._waiting_reports = 0
        self._count = 0
        self._bytes = 0
        self._full_since: float | None = None
        self._refusing = False
        self._relieved = False
        self._ended = False
        self._stopped = False

    # --- receiving thread ------------------------------------------------------------------

    def offer(self, item: T, size: int, *, wait: bool = True) -> bool:
        """Add an item of `size` bytes; return False when there is no room for it.

        Waits for room for the rest of the patience at most; with wait=False not at all.
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
            self._entries.append(_Entry(item, size, counts=True))
            self._changed.notify_all()
            self._count += 1
            self._bytes += size
            return True

    def report(self, kind: Hashable, item: T, merge: Callable[[T, T], T]) -> None:
        """Add a report, which is never refused.

        Beyond _MAX_REPORTS `merge` combines it with the newest queued one of its kind.
        """
        with self._lock:
            if self._stopped:
                return
            found = self._reports.get(kind)
            if found is not None and self._waiting_reports >= _MAX_REPORTS:
                found.item = merge(found.item, item)
                return
            self._reports[kind] = entry = _Entry(item, kind=kind)
            self._waiting_reports += 1
            self._entries.append(entry)
            self._changed.notify_all()

    def _is_full(self, size: int) -> bool:
        return self._count >= self._max_items or (
            self._count > 0 and self._bytes + size > self._max_bytes
        )

    # --- any thread ------------------------------------------------------------------------

    def post(self, item: T) -> None:
        """Add an item outside the bounds: the end of a connection."""
        with self._lock:
            self._entries.append(_Entry(item))
            self._changed.notify_all()

    def take(self) -> T | None:
        """Wait for the next item; return None when the inbox has ended and is empty."""
        with self._lock:
            while not self._entries:
                if self._ended:
                    return None
                self._changed.wait(longest_wait())  # woken by an item or by `end`
            entry = self._entries.popleft()
            if entry.counts:
                self._count -= 1
                self._bytes -= entry.size
                if self._count * 2 <= self._max_items and self._bytes * 2 <= self._max_bytes:
                    self._full_since = None
                    self._relieved = self._relieved or self._refusing
                    self._refusing = False
                self._changed.notify_all()
            elif entry.kind is not None:
                self._waiting_reports -= 1
                if self._reports[entry.kind] is entry:
                    del self._reports[entry.kind]
            return entry.item

    def was_relieved(self) -> bool:
        """Return whether it has room again after it refused an item; True once only."""
        with self._lock:
            relieved, self._relieved = self._relieved, False
            return relieved

    def begin(self) -> None:
        """Let `take` wait for items (again)."""
        with self._lock:
            self._ended = False

    def end(self) -> None:
        """Let `take` return the items that are left, and then None."""
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Refuse every item from now on, and drop the queued ones, but for posted ones."""
        with self._lock:
            self._stopped = True
            posted = [each for each in self._entries if not each.counts and each.kind is None]
            self._entries = deque(posted)
            self._reports.clear()
            self._count = self._bytes = self._waiting_reports = 0
            self._changed.notify_all()
