"""The thread that starts writer threads, and does their work where none can be started.

`Thread.start` waits until the new thread has run, and the hub thread must not wait; so
another thread starts them. Where the system has no thread to give, or the interpreter ends
(Python 3.12 then starts none), this thread does the writers' work: a step of each in turn,
without waiting for any (FAULTS 76).
"""

from __future__ import annotations

import queue

from .. import threads

__all__ = ["ThreadStarter"]

_PAUSE = 0.01  # seconds between two rounds of steps


class ThreadStarter:
    """Starts threads on a thread of its own.

    Args:
        name: the name of that thread.
    """

    def __init__(self, name: str) -> None:
        # guards: itself. Filled by any thread, without waiting. None ends the thread.
        self._queue: queue.SimpleQueue[threads.DeferredThread | None] = queue.SimpleQueue()
        # owned by this thread: those that could not be started
        self._orphans: list[threads.DeferredThread] = []
        self._thread = threads.start(name, self._run)

    def post(self, thread: threads.DeferredThread) -> None:
        """Have a thread started soon; never waits."""
        self._queue.put(thread)

    def close(self) -> None:
        """Let the thread end after the queued starts. Idempotent."""
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread; return whether it has ended."""
        return threads.join(self._thread, timeout)

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        try:
            # Woken by post and by close.
            thread = self._queue.get(timeout=_PAUSE if self._orphans else None)
        except queue.Empty:
            self._orphans = [orphan for orphan in self._orphans if orphan.step()]
            return True
        if thread is None:
            return False
        if not thread.start():
            self._orphans.append(thread)
        return True
