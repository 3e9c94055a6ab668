"""Slowing a loop that publishes to what the clients that read well take.

Two bounds make that hold: a client
is crowded when its outbox is more than half full, and what may be in the hub's queue, or
taken from it and not yet delivered, is less than the other half. So a loop that waits
while one of its receivers is crowded fills no outbox. Whether a crowded client is worth
waiting for is the judgement of its sender.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ..reentrant import Lock

__all__ = ["Pacing"]

_LONE_MESSAGES = 128  # of one thread, or client, in a second: less is no loop
_LONE_BYTES = 64 * 1024
_WINDOW = 1.0  # seconds


class _Window:
    """What a thread, or a client, has published within a second."""

    __slots__ = ("_messages", "_since", "_size")

    def __init__(self) -> None:
        self._since = -_WINDOW
        self._messages = self._size = 0

    def add(self, messages: int, size: int, now: float) -> bool:
        """Add messages; return whether there was much before them."""
        if now - self._since >= _WINDOW:
            self._since, self._messages, self._size = now, 0, 0
        much = self._messages >= _LONE_MESSAGES or self._size >= _LONE_BYTES
        self._messages += messages
        self._size += size
        return much


class Pacing:
    """Which clients are crowded, and who publishes in a loop.

    Attributes:
        crowded: the numbers of the clients whose outbox is more than half full, without
            those that are not worth waiting for. Empty in the usual case.
    """

    def __init__(self) -> None:
        # guards: the change of `crowded`, which is replaced whole: publishers look at it
        # without the lock, and in a signal handler, too. Taken after a transport's lock;
        # nothing is taken under it.
        self._lock = Lock()
        self.crowded: frozenset[int] = frozenset()
        # .published: what the thread has published; .exempt: how often it is exempt.
        self._own = threading.local()

    def mark(self, number: int, crowded: bool) -> None:
        """Take note that a client is crowded, or no longer so or not worth waiting for."""
        with self._lock:
            self.crowded = self.crowded | {number} if crowded else self.crowded - {number}

    @contextlib.contextmanager
    def exempt(self) -> Iterator[None]:
        """Have the calling thread not be slowed meanwhile."""
        self._own.exempt = getattr(self._own, "exempt", 0) + 1
        try:
            yield
        finally:
            self._own.exempt -= 1

    def is_loop(self, messages: int, size: int, now: float, client: Any = None) -> bool:
        """Say whether much was published just before these messages, by a client or by the thread.

        `client` is the connection that they come from, whose `published` is kept here; None for
        none.
        """
        if getattr(self._own, "exempt", 0):
            return False
        source = self._own if client is None else client
        window: _Window | None = getattr(source, "published", None)
        if window is None:
            window = source.published = _Window()
        return window.add(messages, size, now)
