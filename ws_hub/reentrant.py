"""A lock, an event and a queue that re-entry and interruption on one thread cannot break.

Must not know hubs, sockets or messages. A signal handler runs between two bytecodes of the
main thread, a finaliser of the garbage collector between two of any thread, a log handler
wherever something is logged. Each may call into ws_hub while a line of ws_hub below it is
half done; a signal handler may also raise there, as KeyboardInterrupt does. So:

- A `Lock` that the thread holds already is entered again. Its `with` is C from end to end:
  no exception can come between taking it and the block. `threading.Condition`, and what is
  built on it (`queue.Queue`, `threading.Event`), enters its lock in Python, and a
  KeyboardInterrupt there leaves it locked for ever (FAULTS 63).
- What `Event` and `Intake` change is changed by single calls of C, each of which leaves a
  valid state. Nothing is held meanwhile.
- Who is about to wait asks `nested()`, and does not wait where that is true: what this
  thread has half done may be what it would wait for. The stack itself is the answer, so
  there is no mark that an exception could leave behind.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from _thread import RLock
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["Bell", "Event", "Intake", "Lock", "nested"]

T = TypeVar("T")

_SLOT: Any = object()  # in an intake, room that an item takes beyond one place
_LOOK = 0.5  # seconds of one wait: then the reason for it is looked at again
_FEW = 8  # items of an intake, below which the puts with a bound of their own are woken

# The modules from which a user's function is called, each with no lock held and nothing half
# done: that function may wait. Whatever comes in from elsewhere has interrupted something.
_CALLERS = frozenset(
    f"ws_hub.{name}"
    for name in (
        "access.authenticators cli.run cli.serve cli.tail flask gunicorn hub.callbacks"
        " process.process process.spawn reconnect.client reconnect.connector server.request"
        " server.server server.viewer wsgi.app"
    ).split()
)


def nested() -> bool:
    """Say whether this call came in while the thread was inside ws_hub already.

    That is so where a signal handler, a finaliser or a log handler calls. It walks up the
    stack: for who is about to wait, not for every call.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module(frame).startswith("ws_hub."):
        frame = frame.f_back  # this call itself
    while frame is not None:
        if frame.f_code is _THREAD_START:
            return True  # the lock of `threading` that this holds is not reentrant
        if _module(frame).startswith("ws_hub."):
            return _module(frame) not in _CALLERS
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


_THREAD_START = threading.Thread.start.__code__


class Lock(RLock):  # type: ignore[misc]  # final for typeshed only
    """A lock that its owner may take again; `locked` says whether the calling thread has it.

    Whoever writes state under it does so in an order that leaves it valid after each line,
    for whom the same thread brings in between.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def locked(self) -> bool:
            """Say whether the calling thread has it."""
    else:
        locked = RLock._is_owned  # as threading.Condition uses it


class Event:
    """What `threading.Event` is, for threads that may be interrupted.

    Each waiter has a gate of its own, a plain lock; whoever sets the event opens all of
    them. What an interrupted waiter leaves behind is a gate that nobody waits at.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gates: list[threading.Lock] = []

    def is_set(self) -> bool:
        """Say whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._is_set = True
        _open(self._gates, len(self._gates))

    def clear(self) -> None:
        """Take that back."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds; say whether it is."""
        return _wait(self.is_set, self._gates, timeout)


class Bell(queue.SimpleQueue[None]):
    """What one thread sleeps on. Its `put` rings, in one call of C that nothing interrupts."""

    def ring(self) -> None:
        """Wake the thread that sleeps, or have its next wait end at once."""
        if self.empty():
            self.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long. For one thread."""
        try:
            self.get(timeout=max(seconds, 0.0))
            while True:  # one look is for all that have rung
                self.get_nowait()
        except queue.Empty:
            pass


class Intake(queue.Queue[T]):
    """A `queue.Queue` for one consumer, which sleeps on a bell and then takes what is there.

    Putting is: look for room, append, ring. Nothing is locked, so that two threads at the
    same moment may go one item beyond the bound each. An interruption comes before the
    append, and nothing is queued, or after it, and the consumer is woken all the same.

    Args:
        bell: rung after each item; of several intakes it may be one.
        maxsize: items that may wait; 0 for any number.
        slots_of: returns for how many an item counts, one at least. While there is any room,
            one that is larger gets in all the same.

    An item that comes with a bound of its own leaves room for others: however many such come,
    the others neither wait for room nor long for what stands before theirs.
    """

    def __init__(
        self, bell: Bell, maxsize: int = 0, slots_of: Callable[[T], int] | None = None
    ) -> None:
        super().__init__(maxsize)  # makes `self.queue`, the deque
        self._bell = bell
        self._slots_of = slots_of
        self._gates: list[threading.Lock] = []  # of those who wait for room
        self._modest_gates: list[threading.Lock] = []  # of puts with a bound of their own

    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        most: int | None = None,
    ) -> None:
        """Append an item; raise queue.Full where there is no room, after `timeout` seconds.

        There is room for it while fewer than `most` items wait.
        """
        bound, gates = self.maxsize, self._gates
        if most is not None:
            bound, gates = min(most, bound), self._modest_gates
        if 0 < bound <= len(self.queue):
            if not block or not _wait(lambda: len(self.queue) < bound, gates, timeout):
                raise queue.Full
        # What it counts for beyond one stands behind it: the length is what is taken.
        more = 0 if self._slots_of is None else self._slots_of(item) - 1
        try:
            if more:
                self.queue.extend([item, *[_SLOT] * more])
            else:
                self.queue.append(item)
            if self._bell.empty():
                self._bell.put(None)
        except BaseException:
            # What interrupts runs between calls: this one is made before the next can come.
            self._bell.put(None)
            raise

    def force(self, item: T) -> None:
        """Append an item whether there is room or not."""
        try:
            self.queue.append(item)
        finally:
            self._bell.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the next item; raise queue.Empty where there is none. It never waits.

        The consumer waits on the bell, which tells of other news too.
        """
        try:
            item: T = self.queue.popleft()
            while item is _SLOT:
                item = self.queue.popleft()
        except IndexError:
            # All: one that was called before may have left without taking its room.
            _open(self._gates, len(self._gates))
            _open(self._modest_gates, _FEW)
            raise queue.Empty from None
        if self._gates:
            _open(self._gates, 1)
        if self._modest_gates and len(self.queue) < _FEW:
            _open(self._modest_gates, 1)
        return item

    def qsize(self) -> int:
        """Return how many items wait."""
        if self._slots_of is None:
            return len(self.queue)
        return sum([each is not _SLOT for each in self.queue.copy()])

    def empty(self) -> bool:
        """Say whether none waits."""
        return not self.qsize()

    def full(self) -> bool:
        """Say whether there is no room."""
        return 0 < self.maxsize <= len(self.queue)


def _wait(ready: Callable[[], bool], gates: list[threading.Lock], timeout: float | None) -> bool:
    """Wait until `ready()`, at most `timeout` seconds; say whether it is."""
    if ready():
        return True
    deadline = None if timeout is None else time.monotonic() + timeout
    # guards: nothing: it is shut, and opened by whoever takes it out of `gates`.
    gate = threading.Lock()
    gate.acquire()
    gates.append(gate)
    while not ready():  # what became so before the gate was there opens none
        left = _LOOK if deadline is None else min(deadline - time.monotonic(), _LOOK)
        if left <= 0:
            with contextlib.suppress(ValueError):  # it was opened just now
                gates.remove(gate)
            return False
        if gate.acquire(timeout=left):
            gates.append(gate)
    return True


def _open(gates: list[threading.Lock], most: int) -> None:
    try:
        for _ in range(most):
            gates.pop(0).release()
    except IndexError:  # somebody else has opened them
        pass
