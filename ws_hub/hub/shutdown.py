"""Letting clients go a few at a time, each told when to come back: no deploy is a storm.

Must not know how a connection is closed or what is published. Two things spread the
returns: the batches, for every client there is, and the word in the Close frame, for
those that understand it (`backoff.come_back`).
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Collection, Iterator

from ..backoff import come_back
from ..connection.client import Client
from ..errors import CloseCode
from ..reentrant import Event, nested
from .lifecycle import Lifecycle

__all__ = ["Departures", "Draining"]

_PACE = 0.1  # seconds between batches
_SPREAD = 5.0  # seconds over which those of one moment come back, when they are few
_PER_SECOND = 200  # clients that come back in a second, when they are many


class Departures:
    """Who is let go when, and told to come back when.

    Args:
        began: monotonic seconds.
        timeout: seconds from the first batch to the last.
        spread: seconds over which the returns are spread.
        random: yields numbers in [0, 1).
    """

    def __init__(
        self, began: float, timeout: float, spread: float, random: Callable[[], float]
    ) -> None:
        self._end = began + timeout
        self._spread = spread
        self._random = random
        self._told: set[int] = set()

    def due(self, now: float, present: Collection[Client]) -> Iterator[tuple[Client, str]]:
        """Yield who of those present is let go now, and what each is told."""
        waiting = [client for client in present if client.id not in self._told]
        batches = int(max(self._end - now, 0.0) / _PACE) + 1
        for client in waiting[: -(-len(waiting) // batches)]:
            self._told.add(client.id)
            yield client, come_back(self._spread * self._random())

    def pause(self, now: float) -> float:
        """Return the seconds until the next batch; 0 when there is none."""
        return min(max(self._end - now, 0.0), _PACE)


class Draining(Lifecycle):
    """A hub whose clients can be let go before it stops."""

    @property
    def draining(self) -> bool:
        """Whether `drain` was called: nobody is admitted any more.

        Threads: any.
        """
        return not self._admitting

    def drain(self, timeout: float = 10.0, *, spread: float | None = None) -> None:
        """Let all clients go, for a restart without a storm; `stop()` comes after it.

        From now on a handshake gets 503 with Retry-After. Clients are closed with 1012 in
        batches over `timeout` seconds, each told to come back at a moment of its own of the
        next `spread` seconds (None: five, or more for more than a thousand clients).
        Whoever is still there gets what is published. Returns when the last has been told,
        or the hub stops; no change when the hub does not run. Raises ValueError for a
        negative time. From a signal handler within a call of the hub, all are told at once.

        Threads: any; blocks at most `timeout` and a moment.
        """
        if nested():
            timeout = 0.0  # this thread may have half done what the hub thread waits for
        if timeout < 0 or (spread is not None and spread < 0):
            raise ValueError(f"timeout={timeout} and spread={spread} must not be negative")
        with self._lock:
            self._admitting = not self.running
            if self._admitting:
                return
            roster, finished = self._roster, self._finished  # of this life
        self._settle()
        if spread is None:
            spread = max(_SPREAD, len(roster) / _PER_SECOND)
        departures = Departures(time.monotonic(), timeout, spread, random.random)
        while present := roster.clients():
            now = time.monotonic()
            for client, reason in departures.due(now, present):
                client.close(CloseCode.RESTART, reason)
            pause = departures.pause(now)
            if not pause or not self.running or finished.wait(pause):
                return

    def _settle(self) -> None:
        """Wait until all who were admitted before this are among the clients."""
        settled = Event()
        try:
            # In a turn of the hub, calls come after the registrations.
            self._broadcasts.put(settled.set, not nested(), self._config.close_timeout)
        except queue.Full:
            return  # who comes late all the same is met by a later batch, or by stop()
        settled.wait(0.0 if nested() else self._config.close_timeout)  # set by the hub thread
