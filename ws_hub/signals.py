"""Signals as entries of a queue: the handlers only append, one thread waits and acts.

A handler that raised would interrupt the main thread at any line; one that took a lock
could wait for that thread for ever. `exit_on_signals` is for programs that need no queue.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from typing import Any

from .threads import longest_wait

__all__ = ["Signals", "exit_on_signals"]


def exit_on_signals() -> None:
    """Make SIGTERM and SIGHUP end the program as `sys.exit(0)` would.

    By default they kill it at once, without a Close frame to any client. With this, `finally`
    and `with` blocks are left and `atexit` runs, so hubs stop and send 1001, as after Ctrl-C.
    For scripts and Werkzeug's server; gunicorn handles signals itself (`ws_hub.gunicorn`). An
    ignored SIGHUP, as under nohup, stays ignored.

    Raises ValueError outside the main thread.

    Threads: the main thread.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(0))


class Signals:
    """A queue of the signals that ask to end; `with` installs and restores the handlers.

    An entry None means that the work is done, to be defined by the user of the queue.

    Threads: `with` the main thread, `wait` one thread, `put` any.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        # guards: itself; its put() may interrupt its get(), as a signal handler does.
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def put(self, number: int | None) -> None:
        """Add a signal's number, or None."""
        self._queue.put(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the first entry; raises queue.Empty after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = longest_wait()
            if deadline is not None:
                left = max(min(left, deadline - time.monotonic()), 0.0)
            try:
                return self._queue.get(timeout=left)
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    def __enter__(self) -> Signals:
        for name in self.NAMES:
            number = getattr(signal, name, None)
            if number is None or threading.current_thread() is not threading.main_thread():
                continue
            if name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the program must survive the hangup
            self._before[number] = signal.signal(number, lambda each, frame: self.put(each))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
