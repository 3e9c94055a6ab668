"""Reads the lines of a log by their numbers: ranges, the newest, a search.

A file is read through an index of few places, each the beginning of a line, so that no read takes
memory or time that grows with what is before it. A line that is longer than `LINE_BYTES` is cut.
"""

from __future__ import annotations

import datetime
import os
import re
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..reentrant import Lock
from .log_file import MARK_LINES
from .log_times import read_times

__all__ = [
    "LINE_BYTES",
    "PAGE_BYTES",
    "Chunk",
    "FileLines",
    "LogLine",
    "LogMatches",
    "LogPage",
    "LogSource",
    "line_fields",
    "read_page",
    "search_lines",
    "visible",
]

LINE_BYTES = 1 << 16  # of one line that are returned
PAGE_BYTES = 4 << 20  # of text in one answer
_BLOCK = 1 << 18  # bytes that are read, or decompressed, at once
_RAW = 1 << 16  # compressed bytes that are read at once
_UNSURE = 4 * MARK_LINES  # of the newest lines, which may be written anew
_GZIP = 31
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

# Colours and links, which are not part of what is seen.
_UNSEEN = re.compile(rb"\x1b(?:\[[0-9;:]*[A-Za-z]|\][^\x07\x1b\n]*(?:\x07|\x1b\\))")


class LogLine(NamedTuple):
    """A line of a log.

    Args:
        number: its number, from 1.
        text: its text, colours included; of a very long line the beginning.
        stream: "stdout" or "stderr"; "" where it is not known.
        time: when it was read from its program, in UTC; None where it is not known.
    """

    number: int
    text: str
    stream: str = ""
    time: datetime.datetime | None = None


def line_fields(line: LogLine) -> dict[str, Any]:
    """Return a line as JSON for tools; what is not known of it is left out."""
    fields: dict[str, Any] = {"line": line.number, "text": line.text}
    if line.stream:
        fields["stream"] = line.stream
    if line.time is not None:
        fields["time"] = (line.time - _EPOCH) // _MICROSECOND
    return fields


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log, oldest first.

    Args:
        first: number of the oldest line that can be read.
        last: number of the newest one; `first` - 1 for none.
        lines: those of this page.
        source: "file", or "history" for what the channel keeps.
    """

    first: int
    last: int
    lines: tuple[LogLine, ...]
    source: str


@dataclass(frozen=True, slots=True)
class LogMatches:
    """The lines of a log that contain a text, oldest first.

    Args:
        lines: those that were found.
        next: number of the line to go on at; None when all of the log was searched.
        source: as of a `LogPage`.
    """

    lines: tuple[LogLine, ...]
    next: int | None
    source: str


class Chunk(NamedTuple):
    """Whole lines that follow each other.

    Args:
        numbers: of each line its number.
        data: their text; each line ends with a newline.
    """

    numbers: Sequence[int]
    data: bytes


class LogSource(Protocol):
    """Where the lines of a log are read from."""

    @property
    def name(self) -> str:
        """What it is: "file" or "history"."""

    def span(self) -> tuple[int, int]:
        """Return the numbers of the oldest line and of the newest; first - 1 for none."""

    def chunks(self, first: int) -> Iterator[Chunk]:
        """Yield the lines from a number on."""

    def dated(self, lines: Sequence[LogLine]) -> tuple[LogLine, ...]:
        """Return the same lines with their streams and times, where those are known."""


def read_page(source: LogSource, first: int, count: int) -> tuple[LogLine, ...]:
    """Return at most `count` lines from a number on; fewer when they are long."""
    found: list[LogLine] = []
    size = 0
    if count <= 0:
        return ()
    for numbers, data in source.chunks(first):
        lines = data.split(b"\n")
        for number, line in zip(numbers, lines, strict=False):
            size += len(line)
            if found and size > PAGE_BYTES:
                return tuple(found)
            found.append(LogLine(number, line.decode("utf-8", "replace")))
            if len(found) >= count:
                return tuple(found)
    return tuple(found)


def search_lines(
    source: LogSource,
    text: str,
    first: int,
    limit: int,
    *,
    ignore_case: bool = False,
    until: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[tuple[LogLine, ...], int | None]:
    """Return the lines from a number on that contain a text, and where to go on; None: at the end.

    Colours are left out of account. It ends with `limit` lines, or at `until`, by the clock.
    """
    found: list[LogLine] = []
    size = 0
    wanted = text.casefold() if ignore_case else text
    needle = wanted.encode("utf-8", "replace")
    for numbers, data in source.chunks(first):
        if clock() >= until:
            return tuple(found), numbers[0]
        seen = visible(data)
        if ignore_case:
            # Without any change of the number of lines.
            seen = seen.decode("utf-8", "replace").casefold().encode("utf-8", "replace")
        at = seen.find(needle)
        if at < 0:
            continue
        lines = data.split(b"\n")
        place = before = 0
        while at >= 0:
            place += seen.count(b"\n", before, at)
            size += len(lines[place])
            if found and (len(found) >= limit or size > PAGE_BYTES):
                return tuple(found), numbers[place]
            found.append(LogLine(numbers[place], lines[place].decode("utf-8", "replace")))
            before = seen.find(b"\n", at)
            at = seen.find(needle, before)
    return tuple(found), None


def visible(data: bytes) -> bytes:
    """Return text without colours and links."""
    return _UNSEEN.sub(b"", data) if b"\x1b" in data else data


class _Place(NamedTuple):
    """The beginning of a line in a file."""

    number: int
    offset: int


class FileLines:
    """The lines of a text log, plain or compressed, which may grow meanwhile.

    Args:
        path: the file.

    Threads: any.
    """

    name = "file"

    def __init__(self, path: str) -> None:
        self.path = path
        self._compressed = path.endswith(".gz")
        # guards: _places, _inode. Nothing is taken under it; held while the file is read once.
        self._lock = Lock()
        self._places = [_Place(1, 0)]
        self._inode: tuple[int, int] | None = None

    def span(self) -> tuple[int, int]:
        """Return 1 and the number of the newest line; 0 for none. Raises OSError."""
        fd = self._open()
        try:
            with self._lock:
                return 1, self._scan_locked(fd)
        finally:
            os.close(fd)

    def chunks(self, first: int) -> Iterator[Chunk]:
        """Yield the lines from a number on; raises OSError."""
        self.span()  # so that there are places
        with self._lock:
            index = bisect_right(self._places, max(first, 1), key=lambda place: place.number)
            number, offset = self._places[index - 1]
        fd = self._open()
        try:
            for data in _whole_lines(_blocks(fd, offset, self._compressed)):
                count = data.count(b"\n")
                if number + count > first:
                    skipped = max(first - number, 0)
                    yield Chunk(range(number + skipped, number + count), _behind(data, skipped))
                number += count
        finally:
            os.close(fd)

    def dated(self, lines: Sequence[LogLine]) -> tuple[LogLine, ...]:
        """Return the same lines with their streams and times, where those are known."""
        with self._lock:
            inode = self._inode
        if not lines or inode is None:
            return tuple(lines)
        origins = read_times(self.path, inode[1], [line.number for line in lines])
        return tuple(
            LogLine(line.number, line.text, *origin)
            for line, origin in zip(lines, origins, strict=True)
        )

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        state = os.fstat(fd)
        with self._lock:
            inode = state.st_dev, state.st_ino
            if inode != self._inode or state.st_size < self._places[-1].offset:
                self._inode, self._places = inode, [_Place(1, 0)]
        return fd

    def _scan_locked(self, fd: int) -> int:
        """Return the number of the last line; keep the places of those that stay."""
        assert self._lock.locked()
        number, offset = self._places[-1]
        found: list[_Place] = []
        ends = True  # the text so far ends with a newline
        for data, after in _blocks(fd, offset, self._compressed):
            number += data.count(b"\n")
            if data:
                ends = data.endswith(b"\n")
            if after is None:
                continue
            if self._compressed:
                if ends:
                    found.append(_Place(number, after))
            elif (last := data.rfind(b"\n")) >= 0:
                found.append(_Place(number, after - len(data) + last + 1))
        last_number = number - ends
        self._places += [each for each in found if each.number <= last_number - _UNSURE]
        return last_number


def _blocks(fd: int, offset: int, compressed: bool) -> Iterator[tuple[bytes, int | None]]:
    """Yield the text from an offset on, and the offset behind it where one may begin to read."""
    if not compressed:
        while data := os.pread(fd, _BLOCK, offset):
            offset += len(data)
            yield data, offset
        return
    member, rest = zlib.decompressobj(_GZIP), b""
    while True:
        if not rest:
            rest = os.pread(fd, _RAW, offset)
            offset += len(rest)
            if not rest:
                return
        try:
            data = member.decompress(rest, _BLOCK)
        except zlib.error:  # it was killed while it was written
            return
        if member.eof:
            rest = member.unused_data
            member = zlib.decompressobj(_GZIP)
            yield data, offset - len(rest)
        else:
            rest = member.unconsumed_tail
            yield data, None


def _whole_lines(blocks: Iterator[tuple[bytes, int | None]]) -> Iterator[bytes]:
    """Yield text in whole lines, of which very long ones are cut."""
    begun, cut = b"", False  # the beginning of a line; whether its rest is left out
    for data, _ in blocks:
        end = data.rfind(b"\n") + 1
        if not end:
            if not cut:
                begun += data
                begun, cut = begun[:LINE_BYTES], len(begun) > LINE_BYTES
            continue
        whole = data[:end]
        if cut:
            whole = whole[whole.find(b"\n") :]
        whole, begun, cut = begun + whole, data[end:][:LINE_BYTES], len(data) - end > LINE_BYTES
        if len(whole) > LINE_BYTES:
            whole = _shortened(whole)
        yield whole
    if begun:
        yield begun + b"\n"


def _shortened(data: bytes) -> bytes:
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
