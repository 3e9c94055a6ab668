"""Reads the lines of a log by their numbers: ranges, the newest, a search.

A line that is longer than `LINE_BYTES` is cut. What is read takes as long as the file is large, so
everything here takes a time until which it may work, and says how far it has come: the file is in
`log_index`, which goes on from there.
"""

from __future__ import annotations

import datetime
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = [
    "LINE_BYTES",
    "PAGE_BYTES",
    "Chunk",
    "Late",
    "LogLine",
    "LogMatches",
    "LogPage",
    "LogSource",
    "MissingLines",
    "Span",
    "late_at",
    "line_fields",
    "never",
    "read_below",
    "read_page",
    "search_lines",
    "visible",
]

LINE_BYTES = 1 << 16  # of one line that are returned
PAGE_BYTES = 4 << 20  # of text in one answer
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

Late = Callable[[], bool]  # returns whether the time for a read is over

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
class MissingLines:
    """Lines that a channel has let go, between the first lines of a program and the newest.

    Args:
        after: the number of the line before them.
        lines: how many lines.
        messages: in how many messages these were.
        total_bytes: bytes of the encoded messages.
    """

    after: int
    lines: int
    messages: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log, oldest first.

    Args:
        first: number of the oldest line that can be read.
        last: number of the newest one; `first` - 1 for none.
        lines: those of this page.
        source: "file", or "history" for what the channel keeps.
        complete: whether the log was read to its end. A file of many gigabytes is not within
            two seconds, at first: `last` is how far it was read then, and the next call goes on.
        missing: lines between the first and the last that the history has let go; None for none.
    """

    first: int
    last: int
    lines: tuple[LogLine, ...]
    source: str
    complete: bool = True
    missing: MissingLines | None = None


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
    """Whole lines that follow each other; none where the next ones are still looked for.

    Args:
        numbers: of each line its number.
        data: their text; each line ends with a newline.
        further: whether another read for the same lines would begin further on than this one.
    """

    numbers: Sequence[int]
    data: bytes
    further: bool = False


class Span(NamedTuple):
    """The numbers of the lines of a log.

    Args:
        first: of the oldest line that can be read.
        last: of the newest one, `first` - 1 for none.
        complete: whether that is the newest one; otherwise it is how far the log was read.
    """

    first: int
    last: int
    complete: bool


def never() -> bool:
    """Return False: there is no time at which a read has to end."""
    return False


def late_at(until: float) -> Late:
    """Return what says whether it is later than a time of the monotonic clock."""
    return lambda: time.monotonic() >= until


class LogSource(Protocol):
    """Where the lines of a log are read from."""

    @property
    def name(self) -> str:
        """What it is: "file" or "history"."""

    @property
    def first(self) -> int:
        """The number of the oldest line that can be read."""

    @property
    def missing(self) -> MissingLines | None:
        """Which lines between the first and the last are no longer kept; None for none."""

    def span(self, late: Late = never) -> Span:
        """Return the numbers of the lines; looks for the newest one until it is late."""

    def chunks(self, first: int) -> Iterator[Chunk]:
        """Yield the lines from a number on."""

    def dated(self, lines: tuple[LogLine, ...]) -> tuple[LogLine, ...]:
        """Return the same lines with their streams and times, where those are known."""


def read_page(source: LogSource, first: int, count: int, late: Late = never) -> tuple[LogLine, ...]:
    """Return at most `count` lines from a number on; fewer when they are long, or it is late."""
    found: list[LogLine] = []
    size = 0
    if count <= 0:
        return ()
    for numbers, data, _ in source.chunks(first):
        lines = data.split(b"\n")
        for number, line in zip(numbers, lines, strict=False):
            size += len(line)
            if found and size > PAGE_BYTES:
                return tuple(found)
            found.append(LogLine(number, line.decode("utf-8", "replace")))
            if len(found) >= count:
                return tuple(found)
        if late():
            break
    return tuple(found)


def read_below(source: LogSource, first: int, end: int, late: Late = never) -> tuple[LogLine, ...]:
    """Return the lines from a number on and below another; the last when they are long.

    Nothing when it is late.
    """
    found: deque[tuple[int, bytes]] = deque()
    size = 0
    if first >= end:
        return ()
    for numbers, data, _ in source.chunks(first):
        for number, line in zip(numbers, data.split(b"\n"), strict=False):
            if number >= end:
                break
            size += len(line)
            found.append((number, line))
            while size > PAGE_BYTES and len(found) > 1:
                size -= len(found.popleft()[1])
        if numbers and numbers[-1] >= end - 1:
            break
        if late():
            return ()
    return tuple(LogLine(number, line.decode("utf-8", "replace")) for number, line in found)


def search_lines(
    source: LogSource,
    text: str,
    first: int,
    limit: int,
    *,
    ignore_case: bool = False,
    late: Late = never,
) -> tuple[tuple[LogLine, ...], int | None]:
    """Return the lines from a number on that contain a text, and where to go on; None: at the end.

    Colours are left out of account. It ends with `limit` lines, or when it is late.
    """
    found: list[LogLine] = []
    size = 0
    wanted = text.casefold() if ignore_case else text
    needle = wanted.encode("utf-8", "replace")
    after, comes_further = first, False
    for numbers, data, further in source.chunks(first):
        if comes_further and late():
            return tuple(found), after
        comes_further = comes_further or further or bool(data)
        if not data:
            continue
        after = numbers[-1] + 1
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
