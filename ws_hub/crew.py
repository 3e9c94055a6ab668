"""Threads that share one wait: one waits and handles what it finds, another one stands by.

To hand each thing that has become ready to a thread of its own costs a switch of threads, which
is more than most of these things take. To handle them all on one thread, as an event loop does,
is fast until one of them waits: for a database, or for another client. So::

    leader    waits, then handles what is ready, one after the other
    watcher   looks every few milliseconds whether the leader has got on while it was busy. If
              not, it takes over, and the old leader stays with what it is at
    others    are at what has kept them, and end after that

A leader that knows that it is about to wait hands over before (`hand_over`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Generic, Protocol, TypeVar

from . import threads
from .log import get_logger
from .reentrant import Lock

__all__ = ["Crew", "Work"]

logger = get_logger(__name__)

T = TypeVar("T")

_LOOK = 0.005  # seconds from the moment that the leader is busy to the watcher's first look
_LONGEST_LOOK = 0.02  # seconds between two looks while the leader gets on: each costs it a little
# Looks that find the leader where it was, before it counts as held up. One that came late says
# less: the leader may have waited for the GIL, as the watcher did.
_CERTAIN = 4
_PAUSE = 0.2  # seconds until what has failed is tried again
_SHORT = 0.001  # seconds of a call that holds up nobody
_LONG = 0.02  # seconds of a call that does
_ROW = 3  # calls between these, in a row, that do: a single one may have waited for the GIL
_CAUTION = 5.0  # seconds after a take-over in which calls that may wait are made without the lead


class Work(Protocol[T]):
    """What the threads of a crew do."""

    def wait(self) -> Iterable[T]:
        """Wait for things to handle; return them, or nothing. The leader alone."""

    def handle(self, item: T) -> None:
        """Handle a thing; must not raise. The leader, or a thread that was it."""

    def part(self, item: T) -> None:
        """Have `wait` not return a thing that another thread is at. Under the crew's lock."""

    def keep(self, item: T) -> None:
        """Go on with a thing, on a thread that leads no more; must not raise."""

    def is_over(self) -> bool:
        """Say whether `wait` has nothing more to return, once closed. Under the crew's lock."""

    def end(self) -> None:
        """Release what the threads used. The last of them, when the crew is closed."""


class Crew(Generic[T]):
    """The threads of some work.

    Args:
        name: of the threads.
        work: what they do.

    Attributes:
        lock: guards everything here, and what the work does under it. Taken alone.
    """

    def __init__(self, name: str, work: Work[T]) -> None:
        self._name = name
        self._work = work
        self._renew_lock()
        self._threads: list[threading.Thread] = []  # to be joined; those that have ended too
        self._running = 0  # threads that have not ended, or have yet to begin
        self._closed = False
        self._ready: deque[T] = deque()  # what is to be handled
        self._leader = 0  # the number of the thread that leads; 0 for none
        self._item: T | None = None  # what the leader is at
        self._busy = False  # whether the leader handles things, and does not wait for them
        self._turns = 0  # how many things were handled
        self._watcher = 0  # the number of the thread that watches; 0 for none
        self._asleep = False  # whether the watcher waits until the leader has begun
        self._idle = 0  # the watcher, and threads that are about to lead or to watch
        self._cautious_until = 0.0
        self._long = 0  # calls in a row that were not short; of any thread, by single changes
        self._shortage: str | None = None  # why it has no thread more, until that is logged
        self._warned = False

    def _renew_lock(self) -> None:
        # guards: everything here, and what `Work` has under it. Taken alone.
        self.lock = Lock()
        self._watches = threading.Condition(self.lock)  # waited on by the watcher

    # --- any thread ------------------------------------------------------------------------

    def begin(self) -> None:
        """Have a thread lead, and one watch. Raises RuntimeError when the system has none."""
        if not self._leads():
            with self.lock:
                if not self._leads() and not self._closed:
                    self._start_locked()
                    self._may_start_locked()
            self._warn()

    def _leads(self) -> bool:
        """Say whether a thread leads, or will."""
        return bool(self._leader or self._idle)

    def hand_over(self) -> bool:
        """Have another thread lead, where the calling one does: it is about to wait.

        False when the system has no thread for that: then it leads on, and others wait with it.
        """
        me = threading.get_ident()
        if self._leader != me:
            return True
        with self.lock:
            if self._leader != me or self._item is None or self._ends_locked():
                return True
            hands_over = self._idle or self._may_start_locked()
            if hands_over:
                self._work.part(self._item)
                self._item, self._leader, self._busy = None, 0, False
                self._watches.notify()
        self._warn()
        return bool(hands_over)

    def note(self, seconds: float) -> None:
        """Note how long a call took that may wait.

        The watcher sees one that waits for long. Short ones, one after the other, hold up what
        is behind them as well.
        """
        if seconds < _SHORT:
            self._long = 0
            return
        self._long += 1
        if self._long >= _ROW or seconds >= _LONG:
            self._cautious_until = time.monotonic() + _CAUTION

    @property
    def is_cautious(self) -> bool:
        """Whether calls lately held up the leader, as others like them may."""
        return time.monotonic() < self._cautious_until

    @property
    def is_empty(self) -> bool:
        """Whether it has no thread."""
        return not self._running

    def close(self) -> bool:
        """Have the threads end, when they have handled all that there is. Idempotent.

        Returns whether one of them waits, and has to be woken.
        """
        with self.lock:
            self._closed = True
            self._watches.notify()
            return bool(self._leader) and not self._busy

    def _ends_locked(self) -> bool:
        assert self.lock.locked()
        return self._closed and not self._ready and self._work.is_over()

    def join(self, deadline: float, besides: Collection[threading.Thread] = ()) -> bool:
        """Wait for the threads until a monotonic moment; return whether all have ended.

        Not for those in `besides`, which are at something that does not end with the crew.
        """
        with self.lock:
            under_way = [each for each in self._threads if each not in besides]
        return all([threads.join(each, deadline - time.monotonic()) for each in under_way])

    def forget(self) -> None:
        """Have the calling thread handle nothing more, in a forked child, if it is of the crew.

        Threads: the only one of the child.
        """
        self._renew_lock()  # a thread that the child does not have may have held the old one
        self._closed = True
        self._ready.clear()

    # --- the threads of the crew -----------------------------------------------------------

    def _run(self) -> None:
        me = threading.get_ident()
        try:
            while self._takes_lead(me):
                item = self._lead(me)
                if item is not None:
                    self._work.keep(item)
                item = None  # this thread may stand by for long
                with self.lock:
                    if self._idle > (0 if self._leader else 1):  # one of them is about to lead
                        return
                    self._idle += 1
        finally:
            with self.lock:
                self._running -= 1
                last = self._closed and not self._running
                if self._leader == me:  # by an exception that should not have come here
                    self._leader, self._item = 0, None
                    self._watches.notify()
            if last:
                self._work.end()

    def _takes_lead(self, me: int) -> bool:
        """Watch until this thread is to lead; False when it is not needed, or at the end."""
        with self.lock:
            try:
                while not self._ends_locked():
                    if not self._leader:
                        self._leader = me
                        return True
                    if self._watcher:
                        return False
                    if self._watch_locked(me):
                        return True
                return False
            finally:
                self._idle -= 1

    def _watch_locked(self, me: int) -> bool:
        """Watch the leader until it is held up, and take over; False when there is none."""
        assert self.lock.locked()
        self._watcher = me
        try:
            rests, looks, pause = True, 0, _LOOK
            while self._leader and not self._ends_locked():
                seen = self._turns
                if rests and not self._busy:
                    self._asleep = True
                    self._watches.wait()  # woken by a leader that is busy, or hands over
                    self._asleep, rests, pause = False, False, _LOOK
                    continue
                began = time.monotonic()
                self._watches.wait(pause)
                if self._turns != seen or not self._busy:
                    rests, looks, pause = self._turns == seen, 0, min(2 * pause, _LONGEST_LOOK)
                    continue
                looks += 1 if time.monotonic() - began > 2 * pause else _CERTAIN
                pause = _LOOK
                if looks >= _CERTAIN and self._leader and not self._ends_locked():
                    self._take_over_locked(me)
                    return True
            return False
        finally:
            self._watcher, self._asleep = 0, False

    def _take_over_locked(self, me: int) -> None:
        assert self.lock.locked()
        if self._item is not None:
            self._work.part(self._item)
        self._item, self._leader = None, me
        self._cautious_until = time.monotonic() + _CAUTION

    def _lead(self, me: int) -> T | None:
        """Lead until another thread does, or the end; return what this one is still at."""
        work = self._work
        item: T | None = None
        while True:
            with self.lock:
                if self._leader != me:
                    return item
                self._item = item = None
                if self._ends_locked():
                    self._leader = 0
                    self._watches.notify()
                    return None
                self._busy = bool(self._ready)
                if self._busy:
                    self._item = item = self._ready.popleft()
                    self._turns += 1
                    self._have_watched_locked()
            if self._shortage is not None:
                self._warn()
            if item is not None:
                work.handle(item)
                continue
            self._ready.extend(self._find())  # nobody takes over from a leader that waits

    def _find(self) -> Iterable[T]:
        try:
            return self._work.wait()
        except Exception:  # noqa: BLE001 - all that is waited for is at stake
            logger.exception("thread %s cannot wait", self._name)
            time.sleep(_PAUSE)  # what fails once, for want of memory, may fail again at once
            return ()

    def _have_watched_locked(self) -> None:
        """Have a watcher look, for a leader that is about to handle a thing."""
        assert self.lock.locked()
        if not self._idle:
            self._may_start_locked()
        elif self._asleep:
            self._asleep = False
            self._watches.notify()

    def _start_locked(self) -> None:
        assert self.lock.locked()
        if len(self._threads) > 2 * self._running + 8:
            self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(threads.begin(self._name, self._run, crew=self))
        self._running += 1
        self._idle += 1
        self._warned = False

    def _may_start_locked(self) -> bool:
        """Start one more thread; False when the system has none."""
        assert self.lock.locked()
        try:
            self._start_locked()
        except (MemoryError, RuntimeError) as error:
            if not self._warned:  # at each thing that is handled it would be said again
                self._warned, self._shortage = True, str(error)
            return False
        return True

    def _warn(self) -> None:
        """Log that a thread could not be started; not under the lock, which all others need."""
        with self.lock:
            shortage, self._shortage = self._shortage, None
        if shortage is not None:
            logger.warning(
                "no thread is free for %s: clients wait for each other's callbacks (%s)",
                self._name,
                shortage,
            )
