"""The streams and times of the lines of a text log, in a file beside it: `<log>.times`.

The file begins with a magic number and the inode of its log, by which a reader knows that the two
belong together. Then follow eight bytes for each line, so that those of line N are at a place that
needs no search: microseconds since 1970 times two, plus 1 for the standard error; 0 where nothing
is known. All numbers are little-endian. What cannot be written stays unknown: a program's log never
depends on this file.

Threads: one writes, any may read.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import excerpt
from ..lines import Texts
from ..log import get_logger
from ..protocol.message import microseconds
from ..rows import STATUS_LINE

__all__ = ["Origin", "TimesFile", "drop_times", "make_times", "moment_of", "read_times"]

logger = get_logger(__name__)

_END = ".times"
_MAGIC = b"wshtimes"
_HEAD = struct.Struct("<8sQ")
_RECORD = struct.Struct("<Q")
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_MOST = (1 << 63) - 1  # of a record: far beyond the year 9999
_MOST_RUNS = 256  # that wait to be written
_ERROR = "stderr"


class Origin(NamedTuple):
    """Where a line has come from.

    Args:
        stream: "stdout" or "stderr"; "" where it is not known.
        time: when it was read, in UTC; None where it is not known.
    """

    stream: str
    time: datetime.datetime | None


_UNKNOWN = Origin("", None)


def _path_of(log: str) -> str:
    """Return the path of the file beside a log."""
    return log + _END


class TimesFile:
    """Writes the file beside a log.

    Args:
        fd: the descriptor of an empty file, which it owns.
        inode: that of the log.
    """

    def __init__(self, fd: int, inode: int) -> None:
        self._fd = fd
        # What is to be written, and where, counted from the record of line 1.
        self._runs: list[tuple[int, bytes]] = [(-_HEAD.size, _HEAD.pack(_MAGIC, inode))]

    def take(self, texts: Texts, stream: str, *, whole: bool) -> None:
        """Note where texts have come from; `whole` says that each is the line behind the last."""
        if whole and not texts.times:
            self._put(texts.numbers[0], len(texts), texts.time, stream)
            return
        for place, number in enumerate(texts.numbers):
            if number != STATUS_LINE:
                self._put(number, 1, texts.times.get(place, texts.time), stream)

    def _put(self, first: int, count: int, time: float, stream: str) -> None:
        value = min(max(microseconds(time), 0) << 1 | (stream == _ERROR), _MOST)
        data, at = _RECORD.pack(value) * count, (first - 1) * _RECORD.size
        if self._runs:
            start, before = self._runs[-1]
            if start <= at <= start + len(before) <= at + len(data):
                self._runs[-1] = start, before[: at - start] + data
                return
        self._runs.append((at, data))
        if len(self._runs) > _MOST_RUNS:  # of rows that are drawn anew, again and again
            self.flush()

    def flush(self) -> None:
        """Write what was noted; what cannot be written is forgotten."""
        runs, self._runs = self._runs, []
        with contextlib.suppress(OSError):
            for at, data in runs:
                os.pwrite(self._fd, data, _HEAD.size + at)

    def close(self) -> None:
        """Write the rest, and close the file."""
        self.flush()
        os.close(self._fd)


def make_times(log: str, fd: int) -> TimesFile | None:
    """Make the file beside a log, in the place of that of an earlier one; None where none can be.

    `fd` is the descriptor of the log.
    """
    path = _path_of(log)
    if not drop_times(log):
        logger.warning(
            "the lines of %s get no times: %s is there, and is no file of times; move it away",
            excerpt(log),
            excerpt(path),
        )
        return None
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        logger.warning("the lines of %s get no times: %s", excerpt(log), error)
        return None
    return TimesFile(made, os.fstat(fd).st_ino)


def drop_times(log: str) -> bool:
    """Delete the file beside a log, if it is one of times; return whether none is there then."""
    path = _path_of(log)
    try:
        with _opened(path) as file:
            if os.pread(file, len(_MAGIC), 0) != _MAGIC:
                return False
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def read_times(log: str, inode: int, numbers: Sequence[int]) -> list[Origin]:
    """Return where the lines with some numbers, in order, have come from.

    `inode` is that of the log, whose lines they are.
    """
    try:
        with _opened(_path_of(log)) as fd:
            if os.pread(fd, _HEAD.size, 0) != _HEAD.pack(_MAGIC, inode):
                return [_UNKNOWN] * len(numbers)
            found: list[Origin] = []
            while len(found) < len(numbers):
                rest = numbers[len(found) :]
                found += _run(fd, rest[: _together(rest)])
            return found
    except OSError:
        return [_UNKNOWN] * len(numbers)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file to read, not a link; raises OSError, and so does `os.pread` of a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _together(numbers: Sequence[int]) -> int:
    """Return how many numbers at the beginning follow each other."""
    last = len(numbers)
    if numbers[-1] - numbers[0] == last - 1:  # of a page, as most often
        return last
    return next(at for at in range(1, last + 1) if at == last or numbers[at] != numbers[0] + at)


def _run(fd: int, numbers: Sequence[int]) -> list[Origin]:
    """Return where lines have come from whose numbers follow each other."""
    at = _HEAD.size + (numbers[0] - 1) * _RECORD.size
    size = len(numbers) * _RECORD.size
    data = os.pread(fd, size, at)
    data = data[: len(data) // _RECORD.size * _RECORD.size].ljust(size, b"\0")  # it may grow
    return [_origin(value) for (value,) in _RECORD.iter_unpack(data)]


def _origin(value: int) -> Origin:
    if not value:
        return _UNKNOWN
    return Origin(_ERROR if value & 1 else "stdout", moment_of(value >> 1))


def moment_of(micros: int) -> datetime.datetime | None:
    """Return the time that is so many microseconds after 1970; None for 0, and what is none."""
    try:
        return _EPOCH + datetime.timedelta(microseconds=micros) if micros else None
    except OverflowError:
        return None
