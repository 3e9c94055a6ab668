"""The lines of a text log in a file, plain or compressed, by an index of few places in it.

Places are found by reading the file from its beginning to its end, once: a million lines in some
hundredths of a second, hundreds of gigabytes in minutes. Rules of this file:

- No lock is held while the file is read, but by the one thread that looks for places.
- Whoever reads stops where it is told that its time is up; the places that were found stay, so
  that the next one goes on from there.
- The newest lines have no places: they may be written anew.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..reentrant import Lock
from .log_file import MARK_LINES
from .log_reader import LINE_BYTES, Chunk, Late, LogLine, Span, never
from .log_times import read_times

__all__ = ["BLOCK", "FileLines", "read_blocks"]

BLOCK = 1 << 18  # bytes that are read, or decompressed, at once
_RAW = 1 << 16  # compressed bytes that are read at once
_UNSURE_LINES = 4 * MARK_LINES  # of the newest ones, which may be written anew
_UNSURE_BYTES = 4 << 20  # behind which none is
_SPACING = 1 << 20  # bytes of text between places inside a member, at first
_MOST_INSIDE = 64  # such places, of 50 KB each
_MOST_PLACES = 8192  # of a file; more are thinned out
_GZIP = 31
_LOOK = 0.05  # seconds of one wait for another thread that looks for places


class _Place(NamedTuple):
    """A place in a file to read from.

    Args:
        number: of the first line that begins there, or, inside a line, behind that.
        offset: bytes of the file before it.
        text: bytes of text before it.
        inside: whether a line goes on there.
        member: decompresses what follows; None at the beginning of a member, and in a plain file.
    """

    number: int
    offset: int
    text: int
    inside: bool = False
    member: zlib._Decompress | None = None

    @property
    def ended(self) -> int:
        """The number of the last line that ends before it."""
        return self.number - 1 - self.inside


_START = _Place(1, 0, 0)


class FileLines:
    """The lines of a text log, plain or compressed, which may grow meanwhile.

    Args:
        path: the file.

    Threads: any.
    """

    name = "file"
    first = 1
    missing = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._compressed = path.endswith(".gz")
        # guards: _places, _reached, _inode, _spacing, _gap. Nothing is taken under it.
        self._lock = Lock()
        # guards: nothing; it has one thread look for places at a time. Taken before `_lock`.
        self._looking = Lock()
        self._places = [_START]
        self._reached = _START  # how far the file was read, while it was not read to its end
        self._spacing = _SPACING  # bytes of text between places inside a member
        self._gap = 0  # bytes of text that are between any two places at least
        self._inode: tuple[int, int] | None = None

    def span(self, late: Late = never) -> Span:
        """Return the numbers of the oldest and the newest line; 0 for none. Raises OSError.

        It reads the file to its end, unless it is late: then what was found so far is returned.
        """
        fd = self._open()
        try:
            while not self._looking.acquire(timeout=_LOOK):
                if late():
                    return Span(1, self._begin()[0].ended, complete=False)
            return self._look_locked(fd, late)
        finally:
            # By the owner, whatever has interrupted it.
            if self._looking.locked():
                self._looking.release()
            os.close(fd)

    def _look_locked(self, fd: int, late: Late) -> Span:
        assert self._looking.locked()
        walk = _Walk(fd, *self._begin(), compressed=self._compressed)
        for _ in walk:
            self._keep(walk)
            if late():
                self._reach(walk)
                return Span(1, walk.ended, complete=False)
        return Span(1, walk.ended + walk.inside, complete=True)

    def chunks(self, first: int) -> Iterator[Chunk]:
        """Yield the lines from a number on, and empty chunks on the way; raises OSError."""
        fd = self._open()
        try:
            with self._lock:
                index = bisect_right(self._places, max(first, 1), key=lambda place: place.number)
                place = self._places[max(index - 1, 0)]
            number = place.number
            walk = _Walk(fd, place, place.text, compressed=self._compressed)
            for data in _whole_lines(walk, inside=place.inside):
                further = self._keep(walk)
                if not data:
                    yield Chunk(range(0), b"", further)
                    continue
                # The last line may have no end.
                after = max(walk.ended, number) + 1
                if after > first:
                    skipped = max(first - number, 0)
                    yield Chunk(range(number + skipped, after), _behind(data, skipped))
                else:
                    yield Chunk(range(0), b"", further)
                number = after
        finally:
            os.close(fd)

    def dated(self, lines: tuple[LogLine, ...]) -> tuple[LogLine, ...]:
        """Return the same lines with their streams and times, where those are known."""
        with self._lock:
            inode = self._inode
        if not lines or inode is None:
            return lines
        origins = read_times(self.path, inode[1], [line.number for line in lines])
        return tuple(
            LogLine(line.number, line.text, *origin)
            for line, origin in zip(lines, origins, strict=True)
        )

    # --- places ------------------------------------------------------------------------------

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        state = os.fstat(fd)
        with self._lock:
            inode = state.st_dev, state.st_ino
            known = max(self._places[-1].offset, self._reached.offset)
            if inode != self._inode or state.st_size < known:
                self._inode, self._places, self._reached = inode, [_START], _START
                self._spacing, self._gap = _SPACING, 0
        return fd

    def _begin(self) -> tuple[_Place, int]:
        """Return where to go on, and how much text is before the last place that is kept."""
        with self._lock:
            last, reached = self._places[-1], self._reached
        return reached if reached.offset > last.offset else last, last.text

    def _reach(self, walk: _Walk) -> None:
        """Note how far a walk has come, where that stays as it is."""
        with self._lock:
            place = walk.here()
            if place is not None and walk.inode == self._inode:
                self._reached = place

    def _keep(self, walk: _Walk) -> bool:
        """Keep the places of a walk that are behind those that are known; say if there are any."""
        kept = False
        with self._lock:
            if walk.inode != self._inode:  # the file was replaced meanwhile
                return False
            for place in walk.places(self._spacing):
                last = self._places[-1]
                if place.offset > last.offset and place.text >= last.text + self._gap:
                    if place.number == last.number:  # of a long line the newest is enough
                        self._places.pop()
                    self._places.append(place)
                    self._thin_out_locked(place)
                    kept = True
        return kept

    def _thin_out_locked(self, added: _Place) -> None:
        assert self._lock.locked()
        if added.member is not None:
            inside = [each for each in self._places if each.member is not None]
            if len(inside) > _MOST_INSIDE:
                dropped = {each.offset for each in inside[::2]}
                self._places = [each for each in self._places if each.offset not in dropped]
                self._spacing *= 2
        if len(self._places) > _MOST_PLACES:
            self._gap = max(2 * self._gap, 2 * BLOCK)
            del self._places[1::2]


def read_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if it is `.gz`, up to where it was written.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield from _Walk(fd, _START, 0, compressed=path.endswith(".gz"))
    finally:
        os.close(fd)


class _Walk:
    """Reads the text of an open file from a place on, block by block.

    Args:
        fd: its descriptor.
        place: where to begin.
        noted: bytes of text before the newest place that is kept.
        compressed: whether it is a gzip file.

    Attributes:
        ended: the number of the last line that has ended so far.
        inside: whether the text so far is inside a line.
        inode: of the file.
    """

    def __init__(self, fd: int, place: _Place, noted: int, *, compressed: bool) -> None:
        state = os.fstat(fd)
        self.inode = state.st_dev, state.st_ino
        self.inside = place.inside
        self.ended = place.ended
        self._fd = fd
        self._sure = state.st_size - _UNSURE_BYTES  # what is before that stays as it is
        self._compressed = compressed
        self._offset = place.offset
        self._text = place.text
        self._member = None if place.member is None else place.member.copy()
        self._begins = True  # a member begins here, or, in a plain file, any place will do
        self._found: deque[_Place] = deque()
        self._noted = noted

    def __iter__(self) -> Iterator[bytes]:
        for data in self._unpacked() if self._compressed else self._plain():
            self._text += len(data)
            self.ended += data.count(b"\n")
            if data:
                self.inside = not data.endswith(b"\n")
            yield data

    def places(self, spacing: int) -> list[_Place]:
        """Return the places that were found and are sure, once; note the one reached.

        `spacing`: bytes of text between two inside a member.
        """
        if self._begins or self._text - self._noted >= spacing:
            self._found.append(self._here())
            self._noted = self._text
        sure: list[_Place] = []
        while self._found and self._is_sure(self._found[0]):
            sure.append(self._found.popleft())
        return sure

    def here(self) -> _Place | None:
        """Return the place that was reached; None where it is near the end of the file."""
        place = self._here()
        return place if place.offset <= self._sure else None

    def _here(self) -> _Place:
        number = self.ended + 1 + self.inside
        member = None if self._begins or self._member is None else self._member.copy()
        return _Place(number, self._offset, self._text, self.inside, member)

    def _is_sure(self, place: _Place) -> bool:
        return (
            place.number <= self.ended - _UNSURE_LINES
            or place.text <= self._text - _UNSURE_BYTES
            or place.offset <= self._sure
        )

    def _plain(self) -> Iterator[bytes]:
        while data := os.pread(self._fd, BLOCK, self._offset):
            self._offset += len(data)
            yield data

    def _unpacked(self) -> Iterator[bytes]:
        member = self._member or zlib.decompressobj(_GZIP)
        rest, read = b"", self._offset
        while True:
            if not rest:
                rest = os.pread(self._fd, _RAW, read)
                read += len(rest)
            try:
                data = member.decompress(rest, BLOCK)
            except zlib.error:  # it was killed while it was written
                return
            if not rest and not data:
                return
            left = member.unused_data if member.eof else member.unconsumed_tail
            self._offset = read - len(left)
            rest, self._begins = left, member.eof
            if member.eof:
                member = zlib.decompressobj(_GZIP)
            self._member = member
            yield data


def _whole_lines(blocks: Iterable[bytes], *, inside: bool) -> Iterator[bytes]:
    """Yield text in whole lines, of which very long ones are cut; nothing where none has ended.

    A very long line at the end of a block is yielded at once: its rest may be gigabytes.

    `inside`: the blocks begin inside a line, which is left out.
    """
    begun, skips = b"", inside  # the beginning of a line; whether the rest of one is left out
    for data in blocks:
        if skips:
            at = data.find(b"\n") + 1
            if not at:
                yield b""
                continue
            data, skips = data[at:], False
        data = begun + data
        end = data.rfind(b"\n") + 1
        begun = data[end:]
        is_long = len(begun) > LINE_BYTES
        if end or not is_long:
            yield _shortened(data[:end])
        if is_long:
            yield begun[:LINE_BYTES] + b"\n"
            begun, skips = b"", True
    if begun:
        yield begun + b"\n"


def _shortened(data: bytes) -> bytes:
    if len(data) <= LINE_BYTES:
        return data
    lines = data.split(b"\n")
    if max(map(len, lines)) <= LINE_BYTES:
        return data
    return b"\n".join(line[:LINE_BYTES] for line in lines)


def _behind(data: bytes, lines: int) -> bytes:
    """Return text behind so many lines."""
    if not lines:
        return data
    at = -1
    if lines < 64:
        for _ in range(lines):
            at = data.find(b"\n", at + 1)
        return data[at + 1 :]
    return data.split(b"\n", lines)[lines]
