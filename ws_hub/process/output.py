"""Reads the output of a child process and delivers it as texts, usually one a line.

One thread drives it: `turn` until that returns False, then `finish`, then `close`.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Iterable

from ..lines import HEIGHT, Lines, Numbers, Texts
from ..mask.masks import Masks
from ..mask.stream import StreamMask
from .spawn import Child

__all__ = ["OutputReader"]

# Seconds. An unfinished line (a prompt) is delivered after QUIET, and not before: a line
# that arrives in two parts is delivered once.
QUIET = 0.1
RESTLESS = 0.4  # seconds more, while the program goes on writing
GRACE = 0.5  # after the exit, for output of other processes that hold the child's pipe
POLL = 0.05  # between two checks of the child, on a system that does not report its exit
CHUNK = 65536  # as much as a pipe holds
MAX_LEFT = 1 << 16  # bytes that a terminal, or a pipe of unknown size, may hold


def _capacity(fd: int) -> int:
    """Return how many bytes a pipe may hold."""
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except (AttributeError, OSError):  # not Linux; a terminal
        return MAX_LEFT


def _selector(fds: Iterable[int]) -> selectors.BaseSelector:
    """Return a selector that takes these descriptors: epoll takes no files."""
    selector = selectors.DefaultSelector()
    try:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
            selector.unregister(fd)
    except PermissionError:
        selector.close()
        return selectors.PollSelector()
    return selector


class _Stream:
    """One output of a child: its name and its lines that may still change."""

    def __init__(
        self, name: str, size: tuple[int, int] | None, numbers: Numbers, masks: Masks
    ) -> None:
        self.mask = StreamMask(masks)
        columns, height = size or (None, HEIGHT)
        self.name = name
        self.lines = Lines(columns=columns, height=height, numbers=numbers, mask=self.mask)
        self.read_at = 0.0  # when bytes were read last, POSIX seconds
        self.size = size
        self.due: float | None = None  # when to deliver an unfinished line


class OutputReader:
    """Reads a child's streams and delivers their texts, those of each stream in order.

    Args:
        child: the process; each of its streams is closed at its end.
        deliver: called with "stdout" or "stderr" and the texts that are ready. While it
            runs, a child that prints more waits at its full pipe.
        clock: returns monotonic seconds.
        seen: called with the name of a stream and the bytes that were read, masked.
        wall: returns POSIX seconds, for the times at which bytes are read.
        masks: secrets in the output, which are masked.
    """

    def __init__(
        self,
        child: Child,
        deliver: Callable[[str, Texts], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        seen: Callable[[str, bytes], None] = lambda name, data: None,
        wall: Callable[[], float] = time.time,
        masks: Masks | None = None,
    ) -> None:
        masks = masks or Masks()
        self._seen = seen
        self._wall = wall
        self._child = child
        self._deliver = deliver
        self._clock = clock
        self._selector = _selector(child.streams.values())
        self.read_at = clock()  # when output was read last, by the clock
        self._streams: list[_Stream] = []
        self._done_at: float | None = None  # when the grace ends; None while the child runs
        self._left = 0  # bytes that the pipes may have held at the child's exit, still to read
        numbers = Numbers()
        for name, fd in child.streams.items():
            stream = _Stream(name, child.size, numbers, masks)
            self._streams.append(stream)
            self._selector.register(fd, selectors.EVENT_READ, stream)
        if child.exit_fd is not None:
            self._selector.register(child.exit_fd, selectors.EVENT_READ)

    def turn(self, until: float | None = None) -> bool:
        """Wait for output and deliver it; return False when there will be no more.

        Returns at `until` at the latest, by the clock.
        """
        read = set()
        for key, _ in self._selector.select(self._patience(until)):
            if key.data is not None:
                read.add(key.data)
                self._read(key.data, key.fd)
        now = self._clock()
        for stream in self._streams:
            if stream.due is not None and stream.due <= now:
                if stream in read and now < stream.due + RESTLESS:
                    continue  # the line may be about to end
                stream.due = None
                self._send(stream, stream.lines.partial())
        if self._done_at is None:
            if not self._child.exited():
                return True
            self._done_at = now + GRACE
            self._left = sum(_capacity(fd) for fd in self._child.streams.values())
            if self._child.exit_fd is not None:
                self._selector.unregister(self._child.exit_fd)
        # After its exit all of the child's output is in its pipes, so at most _left bytes are
        # read after GRACE; other processes that hold the pipes may print for ever.
        return bool(self._streams) and (now < self._done_at or (bool(read) and self._left > 0))

    def finish(self) -> None:
        """Deliver the unfinished lines of streams that other processes still hold open."""
        for stream in self._streams:
            self._finish(stream)

    def close(self) -> None:
        """Close the selector; the child's descriptors belong to the child."""
        self._selector.close()

    def _patience(self, until: float | None) -> float | None:
        now = self._clock()
        moments = [stream.due for stream in self._streams]
        moments += [until, self._done_at]
        if self._child.exit_fd is None:
            moments.append(now + POLL)
        known = [moment for moment in moments if moment is not None]
        return max(0.0, min(known) - now) if known else None

    def _read(self, stream: _Stream, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:  # another reader of the same input was faster
            return
        except OSError:  # EIO: no process has the terminal open any more
            data = b""
        if not data:
            self._selector.unregister(fd)
            self._child.close_stream(stream.name)
            self._finish(stream)
            self._streams.remove(stream)
            return
        if self._done_at is not None:
            self._left -= len(data)
        self.read_at = self._clock()
        stream.read_at = self._wall()
        if stream.size != self._child.size and self._child.size is not None:
            stream.size = self._child.size
            self._send(stream, stream.lines.resize(*stream.size))
        texts = self._take(stream, stream.mask.feed(data))
        self._send(stream, texts)
        if not stream.lines.waiting:
            stream.due = None
        elif texts or stream.due is None:
            stream.due = self._clock() + QUIET

    def _take(self, stream: _Stream, data: bytes) -> Texts:
        """Pass on masked bytes; return the texts that are complete."""
        if data:
            self._seen(stream.name, data)
        return stream.lines.feed(data, stream.read_at)

    def _finish(self, stream: _Stream) -> None:
        """Deliver the rest of a stream."""
        self._send(stream, self._take(stream, stream.mask.finish()))
        self._send(stream, stream.lines.finish())

    def _send(self, stream: _Stream, texts: Texts) -> None:
        if not texts:
            return
        for other in self._streams:
            if other is not stream and other.lines.cut:
                # Otherwise this text would continue the other stream's long line.
                self._deliver(other.name, other.lines.break_off())
        self._deliver(stream.name, texts)
