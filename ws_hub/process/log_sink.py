"""Files that a log is written to: plain, or compressed so that it can be read while it grows.

What is put is written by `flush`, all of it or nothing: where the disk is full, the file is as
after the flush before. A place in the file can be marked, and returned to, to write what follows
anew. One thread drives a sink.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import NamedTuple, Protocol

__all__ = ["MEMBER_BYTES", "GzipSink", "Mark", "PlainSink", "Sink"]

# Bytes of text after which a compressed file begins a new member (RFC 1952 section 2.2), from
# which it can be read without what is before.
MEMBER_BYTES = 1 << 20
_LEVEL = 4  # of zlib: twice as fast as its default, for a tenth more bytes
_GZIP = 31  # wbits of a gzip member


class Mark(NamedTuple):
    """A place in a file, right behind a flush.

    Args:
        size: bytes before it.
        state: of the compressor there; None in a plain file.
        raw: bytes of text in the member so far.
    """

    size: int
    state: zlib._Compress | None = None
    raw: int = 0


class Sink(Protocol):
    """A file that text is added to."""

    pending: int  # bytes that were put since the last flush

    def put(self, data: bytes) -> None:
        """Add bytes, for the next flush."""

    def flush(self, *, may_cut: bool = False) -> None:
        """Write what was put; `may_cut` says that a line has ended.

        Raises OSError, with the file as it was and what was put forgotten.
        """

    def mark(self) -> Mark:
        """Return the place behind the last flush."""

    def rewind(self, mark: Mark) -> None:
        """Go back to a place: the next flush replaces what follows, and forgets what was put."""

    def close(self) -> None:
        """Write the file to the disk, and close it. Raises OSError, closed all the same."""


class PlainSink:
    """A file of plain text.

    Args:
        fd: the descriptor of an empty file, which the sink owns.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = self._end = 0  # where to write; where the file ends
        self._data = bytearray()
        self.pending = 0

    def put(self, data: bytes) -> None:
        """Add bytes, for the next flush."""
        self._data += data
        self.pending += len(data)

    def flush(self, *, may_cut: bool = False) -> None:
        """Write what was put, all or nothing; raises OSError."""
        data, self._data, self.pending = self._data, bytearray(), 0
        self._write(bytes(data))

    def _write(self, data: bytes) -> None:
        at, view = self._size, memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                at, view = at + written, view[written:]
            if self._end > at:  # the lines that were rewritten are shorter
                os.ftruncate(self._fd, at)
        except OSError:
            self._end = max(self._end, at)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                self._end = self._size
            raise
        self._size = self._end = at

    def mark(self) -> Mark:
        """Return the place behind the last flush."""
        return Mark(self._size)

    def rewind(self, mark: Mark) -> None:
        """Go back to a place; the next flush replaces what follows."""
        self._data, self.pending = bytearray(), 0
        self._size = mark.size

    def close(self) -> None:
        """Write the file to the disk, and close it; raises OSError, closed all the same."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class GzipSink(PlainSink):
    """A gzip file, which can be decompressed up to its last flush while it grows.

    Args:
        fd: the descriptor of an empty file, which the sink owns.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._raw = 0  # bytes of text in the member
        self._press = _compressor()
        self._good = Mark(0, self._press.copy())  # behind the last flush

    def put(self, data: bytes) -> None:
        """Add bytes, for the next flush."""
        self._data += self._press.compress(data)
        self._raw += len(data)
        self.pending += len(data)

    def flush(self, *, may_cut: bool = False) -> None:
        """Write what was put, to where it can be decompressed; raises OSError."""
        ends = may_cut and self._raw >= MEMBER_BYTES
        if not self.pending and not ends:
            return
        self._data += self._press.flush(zlib.Z_FINISH if ends else zlib.Z_SYNC_FLUSH)
        try:
            super().flush()
        except OSError:
            self.rewind(self._good)
            raise
        if ends:
            self._press, self._raw = _compressor(), 0
        self._good = Mark(self._size, self._press.copy(), self._raw)

    def mark(self) -> Mark:
        """Return the place behind the last flush."""
        return self._good

    def rewind(self, mark: Mark) -> None:
        """Go back to a place; the next flush replaces what follows."""
        assert mark.state is not None
        super().rewind(mark)
        self._press, self._raw, self._good = mark.state.copy(), mark.raw, mark

    def close(self) -> None:
        """End the last member, write the file to the disk, and close it; raises OSError."""
        try:
            if self._fd >= 0 and (self._raw or not self._size):
                self._write(bytes(self._press.flush(zlib.Z_FINISH)))
        finally:
            super().close()


def _compressor() -> zlib._Compress:
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
