"""What a program uses while it runs: a look at /proc now and then.

The processes of a program are those of its session, and the descendants of these that have left
it, as for `session`. All processes of the system are looked at together, once for all programs
that are due at about the same time: that costs some 15 microseconds of processor time a process.

Rules of this file: looks cost at most a fiftieth of the processor time of a core, however many
processes and programs there are; without /proc there are no samples.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from .. import threads
from ..reentrant import Lock
from .usage import Usage, has_proc

__all__ = ["Sampler"]

_PROC = "/proc"
_REST = 50  # times what a look has cost, until the next one
_SHARED = 1.0  # seconds for which a look is good for other programs, too


class _Seen(NamedTuple):
    """One process, as /proc has it."""

    parent: int
    session: int
    ticks: int  # processor time of its own, and of those that it has waited for
    pages: int  # of memory


class _Look(NamedTuple):
    """All processes of the system at one moment."""

    at: float
    cost: float
    found: dict[int, _Seen]
    children: dict[int, list[int]]

    @property
    def rest(self) -> float:
        """The seconds from it until the next one."""
        return _REST * self.cost

    def of(self, leader: int) -> Iterator[_Seen]:
        """Yield the processes of a program, by the process id of its leader."""
        waiting = [pid for pid, each in self.found.items() if each.session == leader]
        known = set(waiting)
        while waiting:
            pid = waiting.pop()
            yield self.found[pid]
            others = [each for each in self.children.get(pid, ()) if each not in known]
            known.update(others)
            waiting += others


class _Processes:
    """The newest look at all processes."""

    def __init__(self) -> None:
        self.forget()
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Begin anew, in a forked child."""
        # guards: _newest, and that one thread looks at a time. Nothing is taken under it; held
        # while /proc is read, some milliseconds.
        self._lock = Lock()
        self._newest: _Look | None = None

    def look(self, age: float) -> _Look:
        """Return a look that is so many seconds old at most, or for which it is too early.

        Threads: any.
        """
        with self._lock:
            now, newest = time.monotonic(), self._newest
            if newest is None or now - newest.at > max(age, newest.rest):
                newest = self._newest = _look(now)
            return newest


def _look(now: float) -> _Look:
    began = time.thread_time()
    found: dict[int, _Seen] = {}
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir(_PROC)
    except OSError:
        names = []
    for name in names:
        if name.isdecimal() and (seen := _read(name)) is not None:
            found[int(name)] = seen
            children.setdefault(seen.parent, []).append(int(name))
    return _Look(now, time.thread_time() - began, found, children)


def _read(pid: str) -> _Seen | None:
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()  # proc(5): from field 3, the state
        return _Seen(int(fields[1]), int(fields[3]), sum(map(int, fields[11:15])), int(fields[21]))
    except (OSError, ValueError, IndexError):
        return None  # it has ended


_processes = _Processes()


class Sampler:
    """Takes samples of one program, which must not be reaped meanwhile.

    Owned by the thread that streams it.

    Args:
        leader: the process id of the program.
        interval: seconds between two samples; 0 for none.
        now: the time, by the monotonic clock: the program has started.
    """

    def __init__(self, leader: int, interval: float, now: float) -> None:
        self._leader = leader
        self._began = now
        self._interval = interval
        self._newest: Usage | None = None
        self._is_told = True  # the newest
        self.due: float | None = None  # when to take the next one, by the monotonic clock
        if interval > 0 and has_proc():
            self.due = now + interval

    def take(self, now: float) -> Usage | None:
        """Return a new sample; None when it is not due, or the same as the one before."""
        if self.due is None or now < self.due:
            return None
        look = _processes.look(min(_SHARED, self._interval / 2))
        self.due = now + max(self._interval, look.rest)
        # Before it began, its process id was another's.
        seen = list(look.of(self._leader)) if look.at >= self._began else []
        if not seen:
            return None
        before = self._newest or Usage(0.0, 0)
        seconds = sum([each.ticks for each in seen]) / os.sysconf("SC_CLK_TCK")
        memory = sum([each.pages for each in seen]) * os.sysconf("SC_PAGE_SIZE")
        # What has left the program with its time is no longer seen.
        sample = Usage(
            max(seconds, before.cpu_seconds), max(memory, before.peak_bytes or 0), memory
        )
        if sample == self._newest and self._is_told:
            return None
        self._newest, self._is_told = sample, True
        return sample

    def put_back(self) -> None:
        """Have the next sample be new, also where it is the same: this one was told to nobody."""
        self._is_told = False

    def complete(self, usage: Usage | None) -> Usage | None:
        """Return what the system says at the end, and no less than was seen before."""
        if usage is None or self._newest is None:
            return usage
        peak = max(usage.peak_bytes or 0, self._newest.peak_bytes or 0) or None
        return Usage(max(usage.cpu_seconds, self._newest.cpu_seconds), peak)
