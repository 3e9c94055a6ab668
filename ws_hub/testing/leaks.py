"""The leak check: threads, descriptors and child processes that a block of code leaves behind."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import threads

__all__ = ["assert_no_leaks", "child_processes", "open_files"]

_DESCRIPTORS = Path("/proc/self/fd")
_LONGEST_PAUSE = 0.05  # seconds between two looks at what is left


@contextlib.contextmanager
def assert_no_leaks(
    timeout: float = 3.0, *, threads: Sequence[str] = (), files: Sequence[str] = ()
) -> Iterator[None]:
    """Fail when the block leaves a thread, a descriptor or a child process behind.

    What was there before the block may stay. The AssertionError lists what is left: each thread
    with its name and its stack, each descriptor with its file or its port, each child process.
    Descriptors and child processes are seen where there is a /proc. An exception of the block is
    raised as it is, without a look at what is left.

    Args:
        timeout: seconds that all has to end by itself.
        threads: regular expressions of the names of threads that may stay.
        files: the same for what descriptors refer to: a path, or `socket:[...]`.

    Threads: any, one at a time; returns at once when nothing is left.
    """
    __tracebackhide__ = True  # pytest shows the block, not this function
    before = _Snapshot()
    yield
    if not before.left(threads, files):
        return
    gc.collect()  # a cycle that holds a socket is garbage, and says so itself as ResourceWarning
    deadline, pause = time.monotonic() + timeout, 0.001
    while left := before.left(threads, files):
        if time.monotonic() >= deadline:
            raise AssertionError(f"left behind after {timeout:g} s:\n" + "\n".join(left))
        time.sleep(pause)  # descriptors and children give no event to wait for
        pause = min(pause * 2, _LONGEST_PAUSE)


class _Snapshot:
    """What there is at one moment."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._crews = {_crew_of(each) for each in self._threads} - {None}
        self._files = open_files()
        self._children = child_processes()

    def left(self, allowed_threads: Sequence[str], allowed_files: Sequence[str]) -> list[str]:
        """Return a text for each thing that is there now, was not then, and may not stay."""
        children = _new(self._children, child_processes())
        return [
            *self._left_threads(allowed_threads),
            *self._left_files(allowed_files),
            *(f"child process {pid}: {name}" for pid, name in children),
        ]

    def _left_threads(self, allowed: Sequence[str]) -> list[str]:
        left = [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads
            and _crew_of(thread) not in self._crews  # else it stands in for one of them
            and not _matches(thread.name, allowed)
        ]
        frames = threads.stacks() if left else {}
        report = []
        for thread in left:
            frame = frames.get(thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (ending)\n"
            report.append(f"thread {thread.name}:\n{stack}")
        return report

    def _left_files(self, allowed: Sequence[str]) -> list[str]:
        return [
            f"descriptor {fd}: {_describe(target)}"
            for fd, target in _new(self._files, open_files())
            if not _matches(target, allowed)
        ]


def _crew_of(thread: threading.Thread) -> object:
    return getattr(thread, "crew", None)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(re.search(each, text) for each in patterns)


def _new(before: dict[int, str], after: dict[int, str]) -> list[tuple[int, str]]:
    return [(key, value) for key, value in after.items() if before.get(key) != value]


def open_files() -> dict[int, str]:
    """Return each descriptor and what it refers to (`socket:[123]`, a path).

    Empty where there is no /proc.
    """
    found = {}
    try:
        names = os.listdir(_DESCRIPTORS)
    except FileNotFoundError:
        return {}
    for name in names:
        try:
            found[int(name)] = os.readlink(_DESCRIPTORS / name)
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    return found


def child_processes() -> dict[int, str]:
    """Return pid and name of each child, zombies included; empty where there is no /proc."""
    if not hasattr(os, "waitid"):  # no /proc there either
        return {}
    try:
        # One call says whether there is any: reading all of /proc twice a test is not free.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return {}
    found = {}
    for name in filter(str.isdigit, names):
        try:
            text = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        command, _, rest = text.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid():
            # Not what else it does: one that was running before sleeps after the block.
            found[int(name)] = f"{command}, a zombie" if state == "Z" else command
    return found


def _describe(target: str) -> str:
    match = re.fullmatch(r"socket:\[(\d+)\]", target)
    if match is None:
        return target
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(path).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[9] == match[1]:
                state = "listening on" if fields[3] == "0A" else "TCP socket at"
                return f"{target} {state} port {int(fields[1].rpartition(':')[2], 16)}"
    return target
