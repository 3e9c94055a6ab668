"""The two connections between this process and another one: one to it, and one from it."""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from .interest import Table
from .notices import INTEREST, FrameBuffer, Hello, hello

__all__ = ["MAX_WAITING_BYTES", "Counts", "Frame", "Receiving", "Sending"]

MAX_WAITING_BYTES = 16 * 1024 * 1024  # for one peer; where less waits, one more notice has room
_READ_BYTES = 256 * 1024
_MAX_PARTS = 256  # of one sendmsg(2), which takes 1024
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_DESCRIPTOR_BYTES = array.array("i").itemsize


@dataclass(slots=True)
class Counts:
    """What a backplane has done so far, see `BusStats`. Written by its thread."""

    told: int = 0
    received: int = 0
    lost: int = 0
    invalid: int = 0
    go_told: int = 0
    go_refused: int = 0


class Frame(NamedTuple):
    """A frame that may wait for several peers.

    Args:
        data: the bytes.
        number: of the notice, or of the last before it.
        notices: how many it stands for.
        is_kept: whether it is of the kind that is sent once for several.
        has_room: whether it may wait whatever else does.
    """

    data: bytes
    number: int
    notices: int = 1
    is_kept: bool = False
    has_room: bool = False


class Sending:
    """The connection to another process, and what waits for it.

    Args:
        name: the other process's socket.
        sock: connected, non-blocking.
        own: the name of our socket.
        number: of the last notice, which is not for this peer.
        counts: what to count in.
        table: the descriptor of what this process wants to be told; -1 for all.

    Threads: that of the backplane.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        own: str,
        number: int,
        counts: Counts,
        table: int = -1,
    ) -> None:
        self.name = name
        self.sock = sock
        self.waits_for_room = False  # whether the selector looks for room
        self._own = own
        self._table = table  # to go with the first byte; -1 from then on
        self._counts = counts
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._offset = 0  # bytes of the first frame that the kernel has
        self._has_kept = False  # whether a frame waits that is sent once for several
        self._number = number  # the newest that this peer is told of by what waits or was sent
        self._put(Frame(hello(own, number, shares=table >= 0), number, notices=0))

    def add(self, frame: Frame) -> None:
        """Have a notice wait to be written; without room it is lost."""
        if frame.is_kept:
            if self._has_kept:
                return
            self._has_kept = True
        elif self._waiting_bytes >= MAX_WAITING_BYTES and not frame.has_room:
            self._counts.lost += frame.notices
            return
        self._put(frame)

    def _put(self, frame: Frame) -> None:
        self._waiting.append(frame)
        self._waiting_bytes += len(frame.data)
        self._number = frame.number

    def catch_up(self, number: int) -> None:
        """Tell the peer of lost notices that no later one tells it of, once it has room."""
        if number > self._number and not self._waiting:
            self._put(Frame(hello(self._own, number), number, notices=0))

    def write(self) -> bool:
        """Write what the kernel takes; return whether nothing waits. Raises OSError."""
        while self._waiting:
            parts: list[bytes | memoryview] = [
                each.data for each in itertools.islice(self._waiting, _MAX_PARTS)
            ]
            parts[0] = memoryview(parts[0])[self._offset :]
            try:
                self._took(self.sock.sendmsg(parts, self._beside(), _FLAGS))
            except BlockingIOError:
                return False
            self._table = -1
        return True

    def _beside(self) -> list[tuple[int, int, array.array[int]]]:
        """Return what is sent beside the first byte."""
        if self._table < 0:
            return []
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self._table]))]

    def _took(self, sent: int) -> None:
        self._waiting_bytes -= sent
        self._offset += sent
        while self._waiting and self._offset >= len(self._waiting[0].data):
            frame = self._waiting.popleft()
            self._offset -= len(frame.data)
            self._counts.told += frame.notices
            if frame.is_kept:
                self._has_kept = False
        if self._offset and self._waiting[0].is_kept:
            self._has_kept = False  # it may be at the peer before the next is told

    def waiting(self) -> int:
        """Return the number of notices that wait."""
        return sum([each.notices for each in self._waiting])

    def is_idle(self) -> bool:
        """Return whether nothing waits."""
        return not self._waiting

    def has_ended(self) -> bool:
        """Return whether the other process has closed it. Nothing is sent this way."""
        try:
            return not self.sock.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True


class Receiving:
    """The connection from another process.

    Args:
        sock: accepted, non-blocking.
        pid: the other process, 0 if unknown.

    Attributes:
        name: its socket, "" until it has said so.
        number: of its last notice.
        frames: what has arrived.
        table: what it wants to be told; None for all.

    Threads: that of the backplane.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.name = ""
        self.number = 0
        self.frames = FrameBuffer()
        self.table: Table | None = None
        self._descriptors: list[int] = []  # that came, and are no table yet

    def read(self) -> bool:
        """Read what has arrived; False at the end of the connection."""
        try:
            if self.name:
                data = self.sock.recv(_READ_BYTES)
            else:
                data = self._read_first()
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.frames.feed(data)
        return bool(data)

    def _read_first(self) -> bytes:
        """Read what has arrived, with a descriptor that may come beside it."""
        if not _CLOSE_ON_EXEC:
            return self.sock.recv(_READ_BYTES)
        data, beside, _, _ = self.sock.recvmsg(
            _READ_BYTES, socket.CMSG_SPACE(_DESCRIPTOR_BYTES), _CLOSE_ON_EXEC
        )
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % _DESCRIPTOR_BYTES
                self._descriptors += array.array("i", content[:whole])
        return data

    def take_table(self, said: Hello) -> None:
        """Take the table of what it wants, if one came with its hello."""
        if said.interest == INTEREST and self._descriptors:
            with contextlib.suppress(OSError, ValueError):  # then it is told all
                self.table = Table(self._descriptors[0])
        self.drop_descriptors()

    def drop_descriptors(self) -> None:
        """Close what came and is not needed."""
        descriptors, self._descriptors = self._descriptors, []
        for each in descriptors:
            os.close(each)

    def advance(self, number: int, step: int) -> int:
        """Go on to a number that is `step` above the last; return how many were skipped.

        Raises ValueError when it is below the last.
        """
        if number < self.number:
            raise ValueError(f"the number {number} after {self.number}")
        skipped = number - self.number - step
        self.number = number
        return max(skipped, 0)
