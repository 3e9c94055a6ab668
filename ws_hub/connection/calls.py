"""Calls of an application's functions for one client that are made in order, one at a time.

Any thread may queue one, also under a lock. They are made by the client's reader, or by
another thread of the hub's while the reader waits for its peer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..reentrant import Event, Lock

__all__ = ["Calls"]


class Calls:
    """The calls of one client that wait to be made."""

    __slots__ = ("_done", "_lock", "_runner", "_waiting")

    def __init__(self) -> None:
        # guards: _runner. Nothing is taken under it, and no call is made under it.
        self._lock = Lock()
        self._waiting: deque[Callable[[], object]] = deque()  # changed by single calls
        self._runner = 0  # the thread that makes them; 0 for none
        self._done = Event()  # set when that thread has made all

    def add(self, call: Callable[[], object]) -> None:
        """Queue a call, which must not raise.

        Threads: any; does not wait.
        """
        self._waiting.append(call)

    def run(self, *, wait: bool) -> None:
        """Make all calls that wait. A thread that is at it already makes these as well.

        Threads: any; with `wait`, returns when that thread has made them, else at once.
        """
        # Looked at again after each turn: a call that was added at the end of the turn, by a
        # thread that found it taken, must not stay behind.
        while self._waiting or (wait and self._runner not in (0, threading.get_ident())):
            if self._begin():
                try:
                    while self._waiting:
                        self._waiting.popleft()()
                finally:
                    self._end()
            elif wait:
                self._done.wait()  # set by the thread that makes them
            else:
                return

    def _begin(self) -> bool:
        me = threading.get_ident()
        with self._lock:
            if self._runner not in (0, me):
                return False
            self._runner = me
            self._done.clear()
            return True

    def _end(self) -> None:
        with self._lock:
            self._runner = 0
            self._done.set()
