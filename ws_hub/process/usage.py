"""What a program has used: processor time, and the memory at its peak.

The system reports both when the program is reaped. The memory is that of the largest of the
program and the processes that it has waited for, and on Linux at least that of our own
process at the start: `posix_spawn` begins the program in our memory, and that counts as the
program's. So a smaller peak is taken from what /proc said while the program ran.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from dataclasses import dataclass
from typing import Protocol

__all__ = ["PeakMemory", "Resources", "Usage", "has_proc"]

_LOOK = 0.5  # seconds between two looks at least
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
_PEAK = b"VmHWM:"


class Resources(Protocol):
    """The fields of `resource.struct_rusage` that are of use here."""

    @property
    def ru_utime(self) -> float:
        """Processor seconds of the program's own code."""

    @property
    def ru_stime(self) -> float:
        """Processor seconds of the system on its behalf."""

    @property
    def ru_maxrss(self) -> int:
        """The peak of the resident memory, in units of the system."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program has used.

    Args:
        cpu_seconds: processor time of the program and the processes that it has waited for;
            while it runs, that of all its processes.
        peak_bytes: the most memory (resident) that one of them had or, where samples of a
            running program have seen more, all of them together; None when not known.
        memory_bytes: while it runs, the memory of all its processes now, added up; else None.
    """

    cpu_seconds: float
    peak_bytes: int | None = None
    memory_bytes: int | None = None


class PeakMemory:
    """Finds the most memory that a program had. Owned by the thread that streams it.

    Args:
        pid: the process id of a program that was just started.
    """

    __slots__ = ("_due", "_pid", "_seen", "_shared")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._shared = _peak("self") or 0
        self._seen: int | None = None
        self._due = 0.0 if has_proc() else math.inf

    def look(self, now: float) -> None:
        """Look at the program while it runs, twice a second at most."""
        if self._shared and now >= self._due:
            self._due = now + _LOOK
            self._seen = max(_peak(str(self._pid)) or 0, self._seen or 0) or None

    def usage(self, resources: Resources) -> Usage:
        """Return what the program has used, of what the system says at its end."""
        peak: int | None = resources.ru_maxrss * _UNIT
        if peak is not None and peak <= self._shared:
            peak = self._seen
        return Usage(round(resources.ru_utime + resources.ru_stime, 6), peak)


def has_proc() -> bool:
    """Return whether there is a /proc, of the namespace that our process ids are of."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _peak(process: str) -> int | None:
    """Return the peak of a process in bytes; None when it is over, or without /proc."""
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/{process}/status", "rb") as file:
            for line in file:
                if line.startswith(_PEAK):
                    return int(line.split()[1]) * 1024
    return None
