"""Counters, and what a hub says of itself.

Must not know clocks, sockets or who counts.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

__all__ = ["Counters", "HubStats"]


@dataclass(frozen=True, slots=True)
class HubStats:
    """What a hub counts, at one moment.

    Args:
        clients: connected now.
        channels: with at least one subscriber.
        subscriptions: in all channels.
        queued: messages in the hub's queue.
        connected: clients ever connected.
        refused: handshakes refused because there is no room.
        foreign_origins: handshakes refused for where they come from.
        unauthenticated: handshakes and first messages refused for who it is, or is not.
        published: messages taken from the hub's queue.
        delivered: messages given to a client's connection, once a client.
        dropped: messages that a client did not get because its outbox was full.
        slow_disconnects: clients cut because their outbox was full.
        callback_errors: callbacks that raised.
    """

    clients: int = 0
    channels: int = 0
    subscriptions: int = 0
    queued: int = 0
    connected: int = 0
    refused: int = 0
    foreign_origins: int = 0
    unauthenticated: int = 0
    published: int = 0
    delivered: int = 0
    dropped: int = 0
    slow_disconnects: int = 0
    callback_errors: int = 0


class Counters:
    """Named numbers that only grow."""

    def __init__(self) -> None:
        # guards: the numbers. Taken after any other lock; nothing is taken under it.
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Let a number grow."""
        with self._lock:
            self._numbers[name] += amount

    def snapshot(self) -> dict[str, int]:
        """Return all numbers as they are now."""
        with self._lock:
            return dict(self._numbers)
