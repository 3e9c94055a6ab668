"""The size of the terminals of the programs of `ws-hub up`, which follows that of ours."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from typing import Any

from .. import threads
from ..process.process import Process
from ..reentrant import Event, Lock
from .console import terminal_size

__all__ = ["Sizes"]

_SIZE = (80, 24)  # columns and lines where we have no terminal
_LEAST = 20  # columns
_JOIN = 5.0


class Sizes:
    """Has the terminals of programs be as large as ours, until `with` is left.

    Args:
        indent: columns that stand before what they print.

    Threads: any; `with` the main thread.
    """

    def __init__(self, indent: int) -> None:
        self._indent = indent
        # guards: _processes. Nothing is taken under it.
        self._lock = Lock()
        self._processes: dict[str, Process] = {}  # the newest of each name
        self._changed = Event()  # our terminal has another size, or it is over
        self._over = False  # written by the main thread alone
        self._before: Any = None
        self._thread: threading.Thread | None = None

    def now(self) -> tuple[int, int]:
        """Return columns and rows for the terminal of a program."""
        columns, rows = shutil.get_terminal_size(terminal_size() or _SIZE)
        return max(columns - self._indent, _LEAST), rows

    def add(self, name: str, process: Process) -> None:
        """Have a program that was started follow our size."""
        with self._lock:
            self._processes[name] = process
        process.resize(*self.now())  # it may have changed since

    def __enter__(self) -> Sizes:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGWINCH, lambda *_: self._changed.set())
        self._thread = threads.start("ws-hub:sizes", self._run)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over = True
        self._changed.set()
        threads.join(self._thread, _JOIN)
        if self._before is not None:
            signal.signal(signal.SIGWINCH, self._before)

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._over:
                return
            with self._lock:
                processes = list(self._processes.values())
            for process in processes:
                with contextlib.suppress(OSError):
                    process.resize(*self.now())
