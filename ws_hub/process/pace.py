"""How far a publisher may run ahead of who is slowest.

Must not know the hub, clients or clocks: it counts, and says when it is time to wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

__all__ = ["Pace"]

_AT_ONCE = 128  # texts that go to the hub in one piece
_ENVELOPE = 512  # bytes that a message has beside its text, at most about
_WORST = 6  # bytes of JSON that one character may take


class Pace:
    """Cuts texts into parts that fit an outbox, and counts those on their way.

    After a wait half of an outbox is free. A quarter is used: who subscribes meanwhile is
    sent kept messages before these. It is shared with all that keep such a pace, because
    one client may listen to all of them.

    Args:
        outbox_messages: how many messages may wait for one client; None: no matter.
        outbox_bytes: how many bytes.
        sharers: says how many share the quarter, this one included.
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
        """Yield texts in parts, each with whether to wait for room before it is sent."""
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
