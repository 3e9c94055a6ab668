"""What waits to be written to one client: bounded, in order, control frames first.

Must not know sockets, channels or threads. It has no lock: its owner calls it under
the lock that also guards the socket. Rules of this file:

- Bytes leave in the order in which they came, but for control frames, which go next
  after the write that has begun (RFC 6455 section 5.5: they may come between messages).
- A write that has begun is finished: half a frame is never dropped.
- An outbox with no message in it takes one message of any size, or one larger than the
  bound could never be sent.
- What the hub says itself and must not be lost has a small reserve beyond the bounds, in
  messages and in bytes.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

__all__ = ["Outbox", "Room"]

_WRITE_BYTES = 256 * 1024  # enough to make a system call cheap, little enough to copy
# For each channel that a client may listen to, an ack and a notice that it lags.
_RESERVED_MESSAGES = 2048
_RESERVED_BYTES = 256 * 1024


class Room(enum.Enum):
    """What room a client has for a piece of a replay."""

    TAKEN = "sent, or at least begun"
    QUEUED = "something waits to be written"
    FULL = "nothing waits, but the kernel has no room"
    ENDED = "the connection is ending"


class Outbox:
    """The frames that wait for one client.

    Args:
        max_messages: messages that may wait.
        max_bytes: bytes that may wait.

    Attributes:
        messages: how many messages wait, those that have begun included.
        size: how many bytes wait; 0 means that a frame may go straight to the socket.
    """

    __slots__ = (
        "_begun",
        "_begun_messages",
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

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._entries: deque[tuple[bytes, int, bool]] = deque()  # frames, messages, reserved
        self._reserved_messages = 0  # how many of the entries came in beyond the bounds
        self._reserved_bytes = 0  # of those
        self._control: dict[int, bytes] = {}
        self.messages = 0
        self.size = 0
        self._begun = b""  # what is being written, from _offset on
        self._begun_messages = 0
        self._offset = 0

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Queue whole frames; False, and nothing kept, when they do not fit.

        `beyond` lets what must not be lost (a notice, a Close frame) use the reserve; a
        Close frame, which is no message and comes once, always has room.
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
        self._entries.append((frames, messages, reserved))
        self.messages += messages
        self.size += len(frames)

    def take(self, frames: bytes, each: Sequence[bytes], sent: int = 0, torn: int = 0) -> int:
        """Keep the rest of a burst, as many whole frames of it as fit.

        `frames` are `each`, joined. The socket took the first `sent` bytes, and has begun
        with `torn` more. Returns how many of them it took or are kept: one that it took, or
        has begun with, always is.
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
        """Return which frames are to be kept, and how much of the first is sent."""
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
        """Keep the rest of frames of which the socket took the first `sent` bytes.

        They have begun, also if those are none.
        """
        assert not self.size, "only a direct send begins a write, and only when nothing waits"
        self._begun, self._begun_messages, self._offset = frames, messages, sent
        self.messages += messages
        self.size += len(frames) - sent

    def control(self, frame: bytes) -> None:
        """Queue a control frame ahead of the messages, one of each kind.

        A newer pong stands for all before it (RFC 6455 section 5.5.3), so that a
        flood of pings costs no memory.
        """
        old = self._control.get(frame[0], b"")
        self._control[frame[0]] = frame
        self.size += len(frame) - len(old)

    def head(self) -> bytes:
        """Return the bytes to write next; b"" when nothing waits.

        What it returns has begun: it comes first until `advance` has taken it all.
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
        while self._entries and (not size or size + len(self._entries[0][0]) <= _WRITE_BYTES):
            frames, count, reserved = self._entries.popleft()
            if reserved:
                self._reserved_messages -= 1
                self._reserved_bytes -= len(frames)
            parts.append(frames)
            size += len(frames)
            messages += count
        self._begun = parts[0] if len(parts) == 1 else b"".join(parts)
        self._begun_messages = messages

    def advance(self, sent: int) -> None:
        """Take note that the socket took `sent` bytes of the head."""
        self._offset += sent
        self.size -= sent
        if self._offset == len(self._begun):
            self.messages -= self._begun_messages
            self._begun, self._begun_messages, self._offset = b"", 0, 0

    def clear(self) -> int:
        """Forget the messages that have not begun; return how many those were."""
        messages = 0
        for frames, count, _ in self._entries:
            messages += count
            self.size -= len(frames)
        self._entries.clear()
        self._reserved_messages = self._reserved_bytes = 0
        self.messages -= messages
        return messages

    def discard(self) -> int:
        """Forget all, also what has begun; return how many messages that were."""
        messages = self.messages
        self._entries.clear()
        self._control.clear()
        self._begun, self._begun_messages, self._offset = b"", 0, 0
        self.messages = self.size = self._reserved_messages = self._reserved_bytes = 0
        return messages
