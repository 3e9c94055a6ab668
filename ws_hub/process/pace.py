"""Decides when the stream of a process waits for the slowest subscriber.

Pure arithmetic: it cuts texts into parts and counts what is sent since the last wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

__all__ = ["Pace"]

_AT_ONCE = 128  # texts that are published together at most
_ENVELOPE = 512  # bytes of a message beside its text, about, at most
_WORST = 6  # bytes of JSON that one character may take


class Pace:
    """Cuts texts into parts that fit an outbox, and counts those that are sent.

    After a wait half of every subscriber's outbox is free. A quarter is used before the
    next wait: a client that subscribes meanwhile is sent the history first. All processes
    with such a pace share that quarter, because one client may subscribe to all of them.

    Args:
        outbox_messages: messages that an outbox holds; None for no waits.
        outbox_bytes: bytes that an outbox holds.
        sharers: returns how many processes share the quarter, this one included.
    """

    __slots__ = ("_ahead_bytes", "_ahead_messages", "_most_bytes", "_most_messages", "_sharers")

    def __init__(
        self,
        outbox_messages: int | None = None,
        outbox_bytes: int = 0,
        sharers: Callable[[], int] = lambda: 1,
    ) -> None:
        self._sharers = sharers
        self._most_messages = self._most_bytes = sys.maxsize
        if outbox_messages is not None:
            self._most_messages = max(outbox_messages // 4, 1)
            self._most_bytes = outbox_bytes // 4
        self._ahead_messages = self._ahead_bytes = 0

    def parts(self, texts: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
        """Yield the texts in parts, each with whether to wait for room before sending it."""
        sharers = max(self._sharers(), 1)
        most_messages = max(self._most_messages // sharers, 1)
        most_bytes = self._most_bytes // sharers
        part: list[str] = []
        size = 0
        for text in texts:
            more = len(text) * _WORST + _ENVELOPE
            if part and (len(part) >= min(most_messages, _AT_ONCE) or size + more > most_bytes):
                yield part, self._is_too_far(len(part), size, most_messages, most_bytes)
                part, size = [], 0
            part.append(text)
            size += more
        if part:
            yield part, self._is_too_far(len(part), size, most_messages, most_bytes)

    def _is_too_far(self, messages: int, size: int, most_messages: int, most_bytes: int) -> bool:
        self._ahead_messages += messages
        self._ahead_bytes += size
        if self._ahead_messages <= most_messages and self._ahead_bytes <= most_bytes:
            return False
        self._ahead_messages, self._ahead_bytes = messages, size
        return True
