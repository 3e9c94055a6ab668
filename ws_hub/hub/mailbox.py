"""A callable on a thread of its own, behind a bounded queue.

Posting never waits; a callable that is slow delays only its own queue.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Generic, TypeVar

from .. import threads

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands items to a callable, in order, on one thread.

    Args:
        name: of the thread.
        handle: called with each item; must not raise.
        max_items: items that may wait.
    """

    def __init__(self, name: str, handle: Callable[[T], object], max_items: int) -> None:
        self._handle = handle
        self._max_items = max_items
        # guards: itself. Filled by any thread without waiting (the bound is kept by
        # `post`, so that the end always fits); emptied by this mailbox's thread.
        self._queue: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._closed = False  # set once, by `close`
        self._thread = threads.start(name, self._run)

    def post(self, item: T) -> bool:
        """Queue an item; False when the bound is reached or the mailbox is closed."""
        if self._closed or self._queue.qsize() >= self._max_items:
            return False
        self._queue.put((item,))
        return True

    def close(self, *, drop: bool = True) -> None:
        """Tell the thread to end: at once, or after what waits. Idempotent."""
        if drop:
            self._closed = True
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the thread; False when its callable still runs."""
        return threads.join(self._thread, timeout)

    def _run(self) -> None:
        while True:
            entry = self._queue.get()  # woken by post and by close
            if entry is None or self._closed:
                return
            self._handle(*entry)
            del entry  # or what was handled last would live until the next comes
