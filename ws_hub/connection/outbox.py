"""The queue of bytes that wait to be written to one client: bounded, in order.

It has no lock: its owner calls it under the lock that also guards the socket. Rules of this
file:

- Bytes leave in the order in which they came, except control frames, which follow the write
  that has begun (RFC 6455 section 5.5: they may come between messages).
- A write that has begun is finished: half a frame is never dropped.
- An outbox without a message takes one message of any size; otherwise a message larger than
  the limit could never be sent.
- Messages of the hub's own that must not be lost have a small reserve beyond the limits, in
  messages and in bytes.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence

__all__ = ["Outbox", "Room"]

_WRITE_BYTES = 256 * 1024  # large enough to make a system call cheap, small enough to copy
# An ack and a `lagged` message for each channel that a client may subscribe to.
_RESERVED_MESSAGES = 2048
_RESERVED_BYTES = 256 * 1024


class Room(enum.Enum):
    """Whether a client has room for a piece of a replay."""

    TAKEN = "sent, or at least begun"
    QUEUED = "something waits to be written"
    FULL = "nothing waits, but the kernel has no room"
    ENDED = "the connection is ending"


class Outbox:
    """The frames that wait for one client.

    Args:
        max_messages: messages that may wait.
        max_bytes: bytes that may wait.
        clock: returns monotonic seconds.

    Attributes:
        messages: the number of waiting messages, including those that have begun.
        size: the number of waiting bytes; at 0 a frame may go directly to the socket.
    """

    __slots__ = (
        "_begun",
        "_begun_at",
        "_begun_messages",
        "_clock",
        "_control",
        "_entries",
        "_offset",
        "_reserved_bytes",
        "_reserved_messages",
        "max_bytes",
        "max_messages",
        "messages",
        "size",
    )

    def __init__(
        self, max_messages: int, max_bytes: int, clock: Callable[[], float] = float
    ) -> None:
        self._clock = clock
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        # frames, messages, whether they use the reserve, when they came
        self._entries: deque[tuple[bytes, int, bool, float]] = deque()
        self._reserved_messages = 0  # messages of the entries that use the reserve
        self._reserved_bytes = 0  # bytes of those
        self._control: dict[int, bytes] = {}
        self.messages = 0
        self.size = 0
        self._begun = b""  # the write that has begun; its first _offset bytes are sent
        self._begun_at = 0.0  # when the oldest of it came
        self._begun_messages = 0
        self._offset = 0

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Queue whole frames; False, and nothing is kept, when they do not fit.

        `beyond` lets frames that must not be lost use the reserve. A Close frame, which counts as
        no message and comes once, always fits.
        """
        reserved = False
        if self.messages and messages and not self._fits(messages, len(frames)):
            reserved = (
                beyond
                and self._reserved_messages < _RESERVED_MESSAGES
                and self._reserved_bytes + len(frames) <= _RESERVED_BYTES
            )
            if not reserved:
                return False
            self._reserved_messages += 1
            self._reserved_bytes += len(frames)
        self._append(frames, messages, reserved)
        return True

    def _fits(self, messages: int, size: int) -> bool:
        return self.messages + messages <= self.max_messages and self.size + size <= self.max_bytes

    def _append(self, frames: bytes, messages: int, reserved: bool = False) -> None:
        self._entries.append((frames, messages, reserved, self._clock()))
        self.messages += messages
        self.size += len(frames)

    def take(self, frames: bytes, each: Sequence[bytes], sent: int = 0, torn: int = 0) -> int:
        """Queue the rest of a burst, as many whole frames as fit.

        `frames` are `each`, joined. The socket took the first `sent` bytes, and has begun with
        `torn` more. Returns the number of frames that are sent or queued; a frame that has begun
        is always queued.
        """
        if self._fits(len(each), len(frames) - sent):
            first, end, offset = 0, len(each), sent
        else:
            first, end, offset = self._cut(each, sent, torn)
            frames = b"".join(each[first:end])
        if offset or torn:
            self.begin(frames, end - first, offset)
        elif end > first:
            self._append(frames, end - first)
        return end

    def _cut(self, each: Sequence[bytes], sent: int, torn: int) -> tuple[int, int, int]:
        """Return the first and last frame to queue, and how much of the first is sent."""
        first = 0
        while first < len(each) and len(each[first]) <= sent:
            sent -= len(each[first])
            first += 1
        end, size = first, -sent
        while end < len(each):
            alone = end == first and (sent or not self.messages)
            begun = size < torn
            size += len(each[end])
            if not alone and not begun and not self._fits(end + 1 - first, size):
                break
            end += 1
        return first, end, sent

    def begin(self, frames: bytes, messages: int, sent: int) -> None:
        """Queue the rest of frames of which the socket took the first `sent` bytes.

        They have begun even if `sent` is 0.
        """
        assert not self.size, "only a direct send begins a write, and only when nothing waits"
        self._begun, self._begun_messages, self._offset = frames, messages, sent
        self._begun_at = self._clock()
        self.messages += messages
        self.size += len(frames) - sent

    def control(self, frame: bytes) -> None:
        """Queue a control frame ahead of the messages; it replaces a waiting one of its kind.

        A newer pong answers all pings before it (RFC 6455 section 5.5.3), so a flood of pings
        costs no memory.
        """
        old = self._control.get(frame[0], b"")
        self._control[frame[0]] = frame
        self.size += len(frame) - len(old)

    @property
    def oldest(self) -> float:
        """The seconds that the oldest waiting message has waited; 0.0 when none waits."""
        if not self.messages:
            return 0.0
        return self._clock() - (self._begun_at if self._begun_messages else self._entries[0][3])

    def head(self) -> bytes:
        """Return the bytes to write next; b"" when nothing waits.

        These bytes have begun: they stay first until `advance` has counted all of them.
        """
        if not self._begun:
            self._begin_next()
        if not self._offset and len(self._begun) <= _WRITE_BYTES:
            return self._begun
        return self._begun[self._offset : self._offset + _WRITE_BYTES]

    def _begin_next(self) -> None:
        parts = list(self._control.values())
        self._control.clear()
        size = sum(map(len, parts))
        messages = 0
        if self._entries:
            self._begun_at = self._entries[0][3]
        while self._entries and (not size or size + len(self._entries[0][0]) <= _WRITE_BYTES):
            frames, count, reserved, _ = self._entries.popleft()
            if reserved:
                self._reserved_messages -= 1
                self._reserved_bytes -= len(frames)
            parts.append(frames)
            size += len(frames)
            messages += count
        self._begun = parts[0] if len(parts) == 1 else b"".join(parts)
        self._begun_messages = messages

    def advance(self, sent: int) -> None:
        """Remove the first `sent` bytes of the head, which the socket took."""
        self._offset += sent
        self.size -= sent
        if self._offset == len(self._begun):
            self.messages -= self._begun_messages
            self._begun, self._begun_messages, self._offset = b"", 0, 0

    def clear(self) -> int:
        """Drop the messages that have not begun; return their number."""
        messages = 0
        for frames, count, _, _ in self._entries:
            messages += count
            self.size -= len(frames)
        self._entries.clear()
        self._reserved_messages = self._reserved_bytes = 0
        self.messages -= messages
        return messages

    def discard(self) -> int:
        """Drop everything, including the write that has begun; return the number of messages."""
        messages = self.messages
        self._entries.clear()
        self._control.clear()
        self._begun, self._begun_messages, self._offset = b"", 0, 0
        self.messages = self.size = self._reserved_messages = self._reserved_bytes = 0
        return messages
