"""What stands before the lines of a program in a terminal or a file: their times, their streams.

No I/O and no clock: the times are those at which the hub has read the lines.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

__all__ = ["TIMES", "UNKNOWN", "Margin", "Origin"]

TIMES = ("clock", "elapsed", "delta")
_WIDTH = {"clock": 12, "elapsed": 11, "delta": 9}
_ERROR, _OUTPUT = "! ", "  "


class Origin(NamedTuple):
    """Where a text of a program's output has come from.

    Args:
        time: when it was read; None where that is not known.
        is_error: whether it is of the standard error.
    """

    time: datetime.datetime | None
    is_error: bool


UNKNOWN = Origin(None, False)


class Margin:
    """Writes what stands before a line.

    Args:
        time: "clock" for the local time, "elapsed" for that since the program's start, "delta"
            for that since the line before; "" for none.
        marks: say which lines are of the standard error.
    """

    def __init__(self, time: str = "", *, marks: bool = False) -> None:
        self._time = time
        self._marks = marks
        self._starts: dict[str, datetime.datetime] = {}
        self._last: dict[str, datetime.datetime] = {}  # of each source, the line before

    def begin(self, source: str, start: datetime.datetime | None) -> None:
        """Note that a program has been started."""
        self._starts.pop(source, None)
        self._last.pop(source, None)
        if start is not None:
            self._starts[source] = self._last[source] = start

    def finished(self, source: str, origin: Origin) -> None:
        """Note that a line is finished: the next one follows it."""
        if origin.time is not None:
            self._last[source] = origin.time

    def time(self, source: str, origin: Origin, before: Origin | None = None) -> str:
        """Return the time of a line; `before` is the line before, None for the newest."""
        if not self._time:
            return ""
        return self._of(source, origin, before).rjust(_WIDTH[self._time]) + " "

    def mark(self, origin: Origin) -> str:
        """Return the mark of a line's stream."""
        if not self._marks:
            return ""
        return _ERROR if origin.is_error else _OUTPUT

    def _of(self, source: str, origin: Origin, before: Origin | None) -> str:
        moment = origin.time
        if moment is None:
            return ""
        if self._time == "clock":
            return moment.astimezone().isoformat(timespec="milliseconds")[11:23]
        start = self._starts.setdefault(source, moment)
        if self._time == "elapsed":
            return _hours(moment - start)
        last = self._last.get(source, start) if before is None else before.time or start
        return f"{(moment - last).total_seconds():+.3f}"


def _hours(passed: datetime.timedelta) -> str:
    """Return a time as "0:00:01.234"."""
    thousandths = round(passed.total_seconds() * 1000)
    sign, thousandths = "-" if thousandths < 0 else "", abs(thousandths)
    seconds, thousandths = divmod(thousandths, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}:{minutes:02d}:{seconds:02d}.{thousandths:03d}"
