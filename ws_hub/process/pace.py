"""Decides when the stream of a process waits for the slowest subscriber.

Pure arithmetic: it cuts texts into parts and counts what is sent since the last wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

__all__ = ["Pace"]

_AT_ONCE = 512  # texts that are published together at most
_ENVELOPE = 512  # bytes of a message beside its text, about, at most
_WORST = 6  # bytes of JSON that one character may take


class Pace:
    """Cuts texts into parts that fit an outbox, and waits for room before it is used up.

    After a wait half of every subscriber's outbox is free. A quarter is used before the
    next wait: a client that subscribes meanwhile is sent the history first. All processes
    with such a pace share that quarter, because one client may subscribe to all of them;
    the room that a new process finds may be promised to the others, so it waits first.

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
        self._ahead_messages = self._ahead_bytes = 0
        self._most_messages = self._most_bytes = sys.maxsize
        if outbox_messages is not None:
            self._most_messages = max(outbox_messages // 4, 1)
            self._most_bytes = outbox_bytes // 4
            self._ahead_messages = self._most_messages

    def parts(self, texts: Sequence[str], wait: Callable[[], object]) -> Iterator[list[str]]:
        """Yield the texts in parts; call `wait` before each part that there may be no room for."""
        start = 0
        while start < len(texts):
            part, size = self._cut(texts, start)
            if not self._fits(part, size):
                wait()
                self._ahead_messages = self._ahead_bytes = 0
                part, size = self._cut(texts, start)  # more processes may share by now
            self._ahead_messages += len(part)
            self._ahead_bytes += size
            start += len(part)
            yield part

    def _share(self) -> tuple[int, int]:
        sharers = max(self._sharers(), 1)
        return max(self._most_messages // sharers, 1), self._most_bytes // sharers

    def _cut(self, texts: Sequence[str], start: int) -> tuple[list[str], int]:
        """Return the next part and its bytes: one text, or as many as the share allows."""
        most_messages, most_bytes = self._share()
        size, end = 0, start
        for text in texts[start : start + min(most_messages, _AT_ONCE)]:
            more = len(text) * _WORST + _ENVELOPE
            if end > start and size + more > most_bytes:
                break
            size += more
            end += 1
        return list(texts[start:end]), size

    def _fits(self, part: list[str], size: int) -> bool:
        most_messages, most_bytes = self._share()
        return (
            self._ahead_messages + len(part) <= most_messages
            and self._ahead_bytes + size <= most_bytes
        )
