"""Signals as news in a queue: the handlers only post, one thread waits and acts.

Must not know what the news are about. A handler that raised would cut whatever the main
thread is in the middle of; one that took a lock could wait for that thread for ever.
`exit_on_signals` is for programs that wait for nothing but their end.
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
    """Have SIGTERM and SIGHUP end the program as its own `sys.exit(0)` would.

    By default they kill it there and then, and clients hear nothing. With this `finally`
    and `with` are left and `atexit` runs, so hubs stop and say 1001, as at Ctrl-C. For
    scripts and Werkzeug's server; gunicorn has signals of its own (`ws_hub.gunicorn`). A
    SIGHUP that is ignored, as under nohup, stays so.

    Threads: the main thread.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(0))


class Signals:
    """A queue of the signals that ask to end; `with` installs the handlers, and takes them back.

    None in it means "it is over", whatever the user of the queue means by that.

    Threads: `wait` and `with` the main thread, `put` any.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        # guards: itself; its put() may interrupt its get(), as a signal handler does.
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def put(self, number: int | None) -> None:
        """Post a signal's number, or None."""
        self._news.put(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return what comes first; raises queue.Empty after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = longest_wait()
            if deadline is not None:
                left = max(min(left, deadline - time.monotonic()), 0.0)
            try:
                return self._news.get(timeout=left)
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    def __enter__(self) -> Signals:
        for name in self.NAMES:
            number = getattr(signal, name, None)
            if number is None or threading.current_thread() is not threading.main_thread():
                continue
            if name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the user wants it to live on
            self._before[number] = signal.signal(number, lambda each, frame: self.put(each))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
