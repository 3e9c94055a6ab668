"""A clock that stands still until a test moves it, for the backoff of a ReconnectingClient."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from ..reentrant import Event

__all__ = ["FakeClock"]


@dataclass(eq=False, slots=True)
class _Wait:
    """One thread that waits at the clock: for its time, or for an event before it."""

    event: Event
    due: float
    over: bool = False

    def end(self) -> None:
        self.over = True
        self.event.wake()


class FakeClock:
    """A monotonic clock that only `advance` moves.

    A client takes it for its times and for its waits between attempts::

        clock = FakeClock()
        client = ReconnectingClient(url, clock=clock, wait=clock.wait, jitter=False)

    After a lost connection or a failed attempt the client waits at the clock, for as long as
    its backoff says: `next_wait` returns these seconds once it does, and `advance` ends the wait.

    Args:
        now: the seconds that it shows first.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        # guards: everything below and _now; waited on for a thread that waits at the clock.
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []

    def __call__(self) -> float:
        """Return the seconds that it shows."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock, and end the waits whose time has come.

        A thread that begins to wait later waits from the new time on: see `next_wait`. Raises
        ValueError for a negative number: the clock is monotonic.

        Threads: any; does not wait for the threads that it wakes.
        """
        if not seconds >= 0:
            raise ValueError(
                f"advance({seconds!r}) must not be negative: a monotonic clock does not go back"
            )
        with self._changed:
            self._now += seconds
            due = [each for each in self._waits if each.due <= self._now]
            self._waits = [each for each in self._waits if each.due > self._now]
            for each in due:
                each.end()

    def next_wait(self, timeout: float = 10.0) -> float:
        """Wait until a thread waits at the clock; return how many seconds it has left.

        Of several threads it is the one whose time comes first. Waits that `advance` has ended
        do not count. Fails with an AssertionError after `timeout` real seconds.

        Threads: any; waits up to `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._waits:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"nothing waits at the clock within {timeout:g} s: is it the client's, "
                        "clock=clock and wait=clock.wait, and has its connection ended?"
                    )
                self._changed.wait(left)
            return min(each.due for each in self._waits) - self._now

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait for an event, at most `seconds` of this clock; return whether it is set.

        Threads: the client's.
        """
        with self._changed:
            wait = _Wait(event, self._now + seconds, over=seconds <= 0)
            if not wait.over:
                self._waits.append(wait)
                self._changed.notify_all()
        try:
            return event.wait_or(lambda: wait.over)
        finally:
            with self._changed:
                if wait in self._waits:
                    self._waits.remove(wait)
