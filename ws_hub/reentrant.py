"""A lock, an event and a queue that tolerate re-entry and interruption on one thread.

A signal handler runs between two bytecodes of the main thread, a finaliser of the garbage
collector between two of any thread, a log handler wherever something is logged. Each may
call into ws_hub while a function of ws_hub below it on the stack is half done; a signal
handler may also raise there, as KeyboardInterrupt does. So:

- A `Lock` can be entered again by the thread that holds it. Its `with` is implemented in C:
  no exception can occur between taking it and the block. `threading.Condition`, and what is
  built on it (`queue.Queue`, `threading.Event`), enters its lock in Python, and a
  KeyboardInterrupt there leaves it locked for ever (FAULTS 63).
- `Event` and `ReentrantQueue` change their state by single calls of C, each of which leaves a valid
  state. No lock is held meanwhile.
- A function that is about to wait calls `nested()`, and does not wait where it returns True:
  it might wait for something that this thread has half done. The answer is read from the
  stack itself, so there is no flag that an exception could leave set.
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

__all__ = ["Event", "Lock", "ReentrantQueue", "Wakeup", "nested"]

T = TypeVar("T")

_SLOT: Any = object()  # in an intake, fills the slots that an item takes beyond the first
_MAX_WAIT = 0.5  # seconds of one wait, after which its condition is checked again
_FEW = 8  # number of items below which waiting puts with a bound of their own are woken

# The modules that call users' functions, each with no lock held and nothing half done: these
# functions may wait. Any other call into ws_hub has interrupted something.
_CALLERS = frozenset(
    f"ws_hub.{name}"
    for name in (
        "access.authenticators cli.run cli.serve cli.tail cli.up flask.extension flask.session_auth"
        " gunicorn hub.callbacks process.process process.spawn reconnect.client"
        " reconnect.connector server.request server.server server.viewer wsgi.app"
    ).split()
)


def nested() -> bool:
    """Return whether this call interrupts another call of ws_hub on the same thread.

    That is so in a signal handler, a finaliser or a log handler. It walks up the stack: to be
    used before a wait, not in every call.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module(frame).startswith("ws_hub."):
        frame = frame.f_back  # the calling function and its callers in ws_hub
    while frame is not None:
        if frame.f_code is _THREAD_START:
            return True  # it holds a lock of `threading` that is not reentrant
        if _module(frame).startswith("ws_hub."):
            return _module(frame) not in _CALLERS
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


_THREAD_START = threading.Thread.start.__code__


class Lock(RLock):  # type: ignore[misc]  # final for typeshed only
    """A lock that its owner may take again; `locked` is about the calling thread.

    Code that changes state under it must leave the state valid after each line, because the
    same thread may enter again.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def locked(self) -> bool:
            """Return whether the calling thread holds it."""
    else:
        locked = RLock._is_owned  # as threading.Condition uses it


class Event:
    """The same as `threading.Event`, for threads that may be interrupted.

    Each waiting thread has a gate of its own, a plain lock; `set` opens all of them. A waiting
    thread that is interrupted leaves a gate behind that no thread waits at.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gates: list[threading.Lock] = []

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all waiting threads."""
        self._is_set = True
        self.wake()

    def clear(self) -> None:
        """Reset it."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds; return whether it is."""
        return _wait(self.is_set, self._gates, timeout)

    def wait_or(self, other: Callable[[], bool]) -> bool:
        """Wait until it is set or `other()` is true; return whether it is set.

        The thread that makes `other` true calls `wake` afterwards.
        """
        _wait(lambda: self._is_set or other(), self._gates, None)
        return self._is_set

    def wake(self) -> None:
        """Have all waiting threads check again what they wait for."""
        _open(self._gates, len(self._gates))


class Wakeup(queue.SimpleQueue[None]):
    """Wakes one sleeping thread. `put` is one call of C that nothing interrupts."""

    def signal(self) -> None:
        """Wake the sleeping thread, or end its next wait at once."""
        if self.empty():
            self.put(None)

    def wait(self, seconds: float) -> None:
        """Wait for a signal, at most `seconds`. For one thread."""
        try:
            self.get(timeout=max(seconds, 0.0))
            while True:  # one wake-up serves all signals so far
                self.get_nowait()
        except queue.Empty:
            pass


class ReentrantQueue(queue.Queue[T]):
    """A `queue.Queue` for one consumer, which sleeps on a wakeup and then takes all items.

    To put is: check for room, append, signal. Nothing is locked, so two threads at the same
    moment may exceed the limit by one item each. An interruption comes before the append, and
    nothing is queued, or after it, and the consumer is still woken.

    Args:
        wakeup: signalled after each item; several queues may share one.
        maxsize: slots for waiting items; 0 for any number.
        slots_of: returns the number of slots that an item takes, at least one. While any slot
            is free, a larger item is accepted too.

    A put with a lower limit of its own leaves slots for the others: however many such puts
    there are, the others neither wait for room nor long for the items before theirs.
    """

    def __init__(
        self, wakeup: Wakeup, maxsize: int = 0, slots_of: Callable[[T], int] | None = None
    ) -> None:
        super().__init__(maxsize)  # makes `self.queue`, the deque
        self._wakeup = wakeup
        self._slots_of = slots_of
        self._gates: list[threading.Lock] = []  # of puts that wait for room
        self._modest_gates: list[threading.Lock] = []  # of waiting puts with a limit of their own

    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        most: int | None = None,
    ) -> None:
        """Append an item; raises queue.Full when there is no room for `timeout` seconds.

        There is room while fewer than `most` slots are taken.
        """
        bound, gates = self.maxsize, self._gates
        if most is not None:
            bound, gates = min(most, bound), self._modest_gates
        if 0 < bound <= len(self.queue):
            if not block or not _wait(lambda: len(self.queue) < bound, gates, timeout):
                raise queue.Full
        # Its further slots are appended behind it, so that the length is the number of taken
        # slots.
        more = 0 if self._slots_of is None else self._slots_of(item) - 1
        try:
            if more:
                self.queue.extend([item, *[_SLOT] * more])
            else:
                self.queue.append(item)
            if self._wakeup.empty():
                self._wakeup.put(None)
        except BaseException:
            # Interruptions occur between calls: this call is made before the next one can.
            self._wakeup.put(None)
            raise

    def force(self, item: T) -> None:
        """Append an item even without room."""
        try:
            self.queue.append(item)
        finally:
            self._wakeup.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Return the next item; raises queue.Empty if there is none. Never waits.

        The consumer waits on the wakeup, which is signalled for other reasons too.
        """
        try:
            item: T = self.queue.popleft()
            while item is _SLOT:
                item = self.queue.popleft()
        except IndexError:
            # All of them: a thread woken earlier may have given up without taking its slot.
            _open(self._gates, len(self._gates))
            _open(self._modest_gates, _FEW)
            raise queue.Empty from None
        if self._gates:
            _open(self._gates, 1)
        if self._modest_gates and len(self.queue) < _FEW:
            _open(self._modest_gates, 1)
        return item

    def qsize(self) -> int:
        """Return the number of waiting items."""
        if self._slots_of is None:
            return len(self.queue)
        return sum([each is not _SLOT for each in self.queue.copy()])

    def empty(self) -> bool:
        """Return whether no item waits."""
        return not self.qsize()

    def full(self) -> bool:
        """Return whether there is no room."""
        return 0 < self.maxsize <= len(self.queue)


def _wait(ready: Callable[[], bool], gates: list[threading.Lock], timeout: float | None) -> bool:
    """Wait until `ready()`, at most `timeout` seconds; return whether it is."""
    if ready():
        return True
    deadline = None if timeout is None else time.monotonic() + timeout
    # guards: nothing: it is shut, and opened by the thread that removes it from `gates`.
    gate = threading.Lock()
    gate.acquire()
    gates.append(gate)
    while not ready():  # a change before the gate was added opens none
        left = _MAX_WAIT if deadline is None else min(deadline - time.monotonic(), _MAX_WAIT)
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
    except IndexError:  # another thread has opened them
        pass
