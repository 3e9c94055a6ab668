"""The thread that starts writer threads, and writes where none can be had.

Must not know sockets or outboxes. `Thread.start` waits until the new thread has run, and the
hub thread must not; so another one starts them. A system without a thread to give, and an
interpreter that ends (Python 3.12 starts none then), leave a writer's work to this thread:
it does a piece of each, in turn, without waiting for any (FAULTS 76).
"""

from __future__ import annotations

import queue

from .. import threads

__all__ = ["Starter"]

_PAUSE = 0.01  # seconds between two rounds of what it does itself


class Starter:
    """Starts threads on a thread of its own.

    Args:
        name: of that thread.
    """

    def __init__(self, name: str) -> None:
        # guards: itself; filled by any thread, without waiting. None is the end.
        self._queue: queue.SimpleQueue[threads.Later | None] = queue.SimpleQueue()
        self._orphans: list[threads.Later] = []  # of this thread: what has none of its own
        self._thread = threads.start(name, self._run)

    def post(self, thread: threads.Later) -> None:
        """Have a thread started; never waits."""
        self._queue.put(thread)

    def close(self) -> None:
        """Tell the thread to end after what waits. Idempotent."""
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the thread; say whether it has ended."""
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
