"""Finds the processes of one session, signals them and waits for them.

A process group is not enough: a shell with job control, `timeout` and the like put the
programs that they start into groups of their own. Descendants that have left the session
(`setsid`) are found as well while their parents live; one whose parent has ended (a
daemon) is out of reach.

No signal is sent to a process id alone, which may be reused by then: on Linux the process
is checked again once a pidfd holds it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

from ..reentrant import Lock

__all__ = ["Session"]

_LOOK = 0.25  # seconds between two searches at most: processes may start others meanwhile
_POLL = 0.02  # seconds between two searches where no pidfd reports an exit
_PROC = "/proc"


class Session:
    """A session, by the process id of its leader, which must not be reaped meanwhile.

    Threads: any.
    """

    def __init__(self, leader: int) -> None:
        self._id = leader
        self._born = _born(leader)
        # guards: _strays. Nothing is taken under it, and nothing is waited for.
        self._lock = Lock()
        # Process id -> start time of the descendants in sessions of their own.
        self._strays: dict[int, str] = {}

    def signal(self, number: int) -> set[int]:
        """Send a signal to each of its processes; return the process ids found."""
        found = self._look()
        for pid, born in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                _send(pid, born, number)
        return {pid for pid, _ in found}

    def wait(self, until: float) -> bool:
        """Wait until all have ended; return False at `until`, by the monotonic clock."""
        while found := self._look():
            left = until - time.monotonic()
            if left <= 0:
                return False
            _wait_for_one(found, left)
        return True

    def kill(self, until: float) -> bool:
        """Send SIGKILL until no process is left; return whether that was so by `until`.

        Repeated, because the processes may fork meanwhile.
        """
        while True:
            self.signal(signal.SIGKILL)
            if self.wait(min(time.monotonic() + _POLL, until)):
                return True
            if time.monotonic() >= until:
                return False

    def _look(self) -> list[tuple[int, str]]:
        """Return process id and start time of every living process, without zombies."""
        with self._lock:
            return self._look_locked()

    def _look_locked(self) -> list[tuple[int, str]]:
        assert self._lock.locked()
        found: dict[int, str] = {}
        if not self._leader_is_reused():
            for pid in _pids():
                if _session_of(pid) == self._id:
                    found[pid] = _born(pid)
        members = set(found)
        for pid, born in self._strays.items():
            if born and _born(pid) == born:
                found[pid] = born
        waiting = list(found)
        while waiting:
            parent = waiting.pop()
            for child in _children(parent, found[parent]):
                if child not in found:
                    found[child] = _born(child)
                    waiting.append(child)
        self._strays = {pid: born for pid, born in found.items() if pid not in members}
        return [(pid, born) for pid, born in found.items() if born]

    def _leader_is_reused(self) -> bool:
        """Return whether the leader's process id belongs to another process by now."""
        now = _born(self._id, zombies=True)
        return bool(now and self._born) and now != self._born


def _pids() -> Iterator[int]:
    try:
        names = os.listdir(_PROC)
    except OSError:
        names = _ps()
    return (int(name) for name in names if name.isdecimal())


def _ps() -> list[str]:
    """Return the living processes on a system without /proc; none without `ps`."""
    try:
        done = subprocess.run(
            ["ps", "-A", "-o", "pid=", "-o", "stat="],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return []
    lines = (line.split() for line in done.stdout.decode(errors="replace").splitlines())
    return [each[0] for each in lines if len(each) > 1 and not each[1].startswith("Z")]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _born(pid: int, *, zombies: bool = False) -> str:
    """Return the start time of a process, "" when it has ended.

    With its process id it identifies the process. "unknown" on a system without /proc.
    """
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # proc(5): from field 3, the state
    except OSError:
        return "" if os.path.isdir(_PROC) or _session_of(pid) is None else "unknown"
    # The state is the main thread's, which may have ended before the others.
    over = fields[0] in "ZX" and int(fields[17]) <= 1
    return fields[19] if zombies or not over else ""


def _children(pid: int, born: str) -> list[int]:
    """Return the children of a process, as far as the system reports them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"{_PROC}/{pid}/task"):
            path = f"{_PROC}/{pid}/task/{thread}/children"
            with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:
        return []
    return found if _born(pid) == born else []


def _send(pid: int, born: str, number: int) -> None:
    fd = _hold(pid)
    try:
        if _born(pid) != born:
            return
        if fd is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(fd, number)
    finally:
        if fd is not None:
            os.close(fd)


def _hold(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux; it has ended; no descriptor is available
        return None


def _wait_for_one(found: list[tuple[int, str]], seconds: float) -> None:
    """Wait until one of these has ended, or for `seconds`, or until the next search."""
    held = [fd for pid, _ in found if (fd := _hold(pid)) is not None]
    try:
        if len(held) < len(found):
            time.sleep(min(_POLL, seconds))
            return
        poll = select.poll()
        for fd in held:
            poll.register(fd, select.POLLIN)
        poll.poll(min(_LOOK, seconds) * 1000)
    finally:
        for fd in held:
            os.close(fd)
