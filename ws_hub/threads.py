"""Starts the threads of ws_hub: named, daemonic, with a log entry when one fails.

Also handles forks: objects registered here drop what belongs to the parent process in
each forked child.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from .errors import ConfigError
from .log import get_logger
from .reentrant import Event, Lock

__all__ = [
    "DeferredThread",
    "ForkAware",
    "LazyCondition",
    "Visit",
    "begin",
    "check_one_kind",
    "check_real",
    "forget_after_fork",
    "join",
    "longest_wait",
    "stacks",
    "start",
    "yield_gil",
]

logger = get_logger(__name__)

_MAIN_THREAD_WAIT = 0.5  # seconds after which a wait of the main thread is interrupted for signals


def start(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a daemon thread named `name` that runs `target(*args)`.

    An exception that reaches the top of the thread is logged with its traceback; `target` has
    its own `finally` for the state it owns. Raises RuntimeError when the system has no more
    threads.
    """
    thread = threading.Thread(target=_run, args=(target, args), name=name, daemon=True)
    thread.start()
    return thread


def begin(
    name: str, target: Callable[..., None], *args: Any, crew: object = None
) -> threading.Thread:
    """Start a thread as `start` does, without waiting until it runs.

    `crew` is what it belongs to, where others of that stand in for it, and it for them.

    That wait hands the GIL to the new thread and back: a third of what a connection costs when
    all threads share a core, a fifth otherwise.
    """
    thread = _Begun(target=_run, args=(target, args), name=name, daemon=True)
    thread.crew = crew
    thread.start()
    return thread


class _Begun(threading.Thread):
    """A thread that counts as alive from its `start` on, which does not wait.

    The wait is that of the base class for its attribute `_started`. In a Python without it, the
    thread is an ordinary one.

    Attributes:
        crew: see `begin`.
    """

    crew: object

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        # guards: nothing. Set by the new thread; waited for by `join`.
        self._started = self._runs = _Unwaited()

    def is_alive(self) -> bool:
        return super().is_alive() or (self._runs.passed and not self._runs.is_set())

    def join(self, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._runs.passed and not self._runs.wait(timeout):
            return
        super().join(None if deadline is None else max(deadline - time.monotonic(), 0.0))


class _Unwaited(threading.Event):
    """An event whose first wait, that of `Thread.start`, does not wait."""

    passed = False

    def wait(self, timeout: float | None = None) -> bool:
        if self.passed:
            return super().wait(timeout)
        self.passed = True
        return True


def _run(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    try:
        target(*args)
    except BaseException:  # noqa: BLE001 - the top of a thread: nothing else would log it
        logger.exception("thread %s died", threading.current_thread().name)


class Visit:
    """Work on several threads, one after the other, which can be waited for as for a thread.

    Attributes:
        thread: the number of the thread that is at it; 0 for none.
    """

    __slots__ = ("_is_over", "_over", "thread")

    def __init__(self) -> None:
        self.thread = 0
        self._is_over = False
        # guards: nothing. Made by the thread that waits, set by the one that ends it.
        self._over: Event | None = None

    def end(self) -> None:
        """Wake the thread that waits for it."""
        self._is_over = True
        if self._over is not None:
            self._over.set()

    def is_alive(self) -> bool:
        """Say whether it has yet to end."""
        return not self._is_over

    def join(self, timeout: float) -> None:
        """Wait until it has ended, at most `timeout` seconds. For one thread at a time."""
        self._over = over = Event()
        if not self._is_over:  # looked at after that, and set before `end` looks for the event
            over.wait(timeout)


def join(thread: threading.Thread | Visit | None, timeout: float) -> bool:
    """Wait up to `timeout` seconds until a thread has ended; return whether it has.

    None and the calling thread count as ended: `stop()` may be called from a callback.
    """
    if isinstance(thread, Visit):
        if thread.thread == threading.get_ident():
            return True
    elif thread is None or thread is threading.current_thread():
        return True
    thread.join(max(timeout, 0.0))
    return not thread.is_alive()


class DeferredThread:
    """A thread that is requested by a thread that must not wait, and started by another one.

    Args:
        name: the thread's name.
        target: the function that it runs.
        step: does a piece of the same work without waiting, for a system without a free
            thread; returns False when no work will follow.
    """

    def __init__(self, name: str, target: Callable[[], None], step: Callable[[], bool]) -> None:
        self._name = name
        self._how: tuple[Callable[[], None], Callable[[], bool]] | None = target, step
        self._thread: threading.Thread | None = None
        # guards: _thread, which is written before it is set, and read after.
        self._decided = Event()

    def start(self) -> bool:
        """Start it, once; False when the system has no thread: then `step` is to be called."""
        assert self._how is not None
        target, _ = self._how
        try:
            self._thread = start(self._name, target)
            self._how = None  # no reference cycle with the owner of these methods
        except RuntimeError as error:
            logger.warning("thread %s cannot be started: %s", self._name, error)
            return False
        finally:
            self._decided.set()
        return True

    def step(self) -> bool:
        """Do a piece of its work; an exception is logged and ends it."""
        assert self._how is not None
        try:
            goes_on = self._how[1]()
        except Exception:  # noqa: BLE001 - as at the top of the thread that it replaces
            logger.exception("the work of thread %s, done in steps, failed", self._name)
            goes_on = False
        if not goes_on:
            self._how = None
        return goes_on

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until it has ended or cannot start; return whether so."""
        deadline = time.monotonic() + timeout
        if not self._decided.wait(max(timeout, 0.0)):  # woken by `start`
            return False
        return join(self._thread, deadline - time.monotonic())


class LazyCondition:
    """A condition variable that is created by the first wait: most are never waited on.

    A `threading.Condition` takes a kilobyte of memory.

    Args:
        lock: the lock that every caller holds.
    """

    __slots__ = ("_condition", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._condition: threading.Condition | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Wait for `notify_all`, with the lock released, at most `timeout` seconds."""
        if self._condition is None:
            # guards: nothing of its own; it waits under the given lock.
            self._condition = threading.Condition(self._lock)
        self._condition.wait(timeout)

    def notify_all(self) -> None:
        """Wake all waiting threads."""
        if self._condition is not None:
            self._condition.notify_all()


# guards: the switch of the garbage collector, while `stacks` has it off.
_collector = Lock()


def stacks() -> dict[int, FrameType]:
    """Return what each thread runs now: its innermost frame, by the thread's number.

    Meanwhile the garbage collector is off. CPython holds a lock of the interpreter here; a
    finaliser that lets go of the GIL would stop the process for ever. From 3.11.9 and
    3.12.3 on it does the same itself (python/cpython#106883).
    """
    with _collector:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_on:
                gc.enable()


def longest_wait() -> float:
    """Return the seconds that the calling thread may wait without interruption.

    The main thread's waits must be short: signal handlers run between its instructions. A
    signal that arrives just before a wait does not interrupt it, and its handler would run only
    after the wait: a quiet program would not react to SIGTERM.
    """
    here = threading.current_thread() is threading.main_thread()
    return _MAIN_THREAD_WAIT if here else threading.TIMEOUT_MAX


# The modules that gevent and eventlet replace, as far as ws_hub depends on them.
_PRIMITIVES = ("select", "socket", "threading", "time")


def check_real(what: str) -> None:
    """Raise ConfigError where gevent or eventlet has replaced threads, sockets or clocks.

    With greenlets for threads, one client that does not read blocks all of them: the wait for
    it holds a lock, and every greenlet that needs this lock waits too (FAULTS 127).
    """
    library, replaced = _replaced()
    if replaced:
        raise ConfigError(
            f"{what} needs real threads and sockets, but {library} has patched "
            f"{', '.join(replaced)} in this process: use a threaded server (gunicorn "
            "--worker-class gthread) or another process, and do not monkey-patch it"
        )


def check_one_kind(what: str) -> None:
    """Raise ConfigError where threads are greenlets and sockets are not, or the reverse."""
    library, replaced = _replaced()
    if library == "eventlet" or (replaced and len(replaced) < len(_PRIMITIVES)):
        raise ConfigError(
            f"{what} does not work where {library} has patched {', '.join(replaced)}: "
            "use gevent.monkey.patch_all(), or no monkey-patching at all"
        )


def _replaced() -> tuple[str, list[str]]:
    """Return the library and the names of the modules that it has replaced.

    Only reads modules that are already imported.
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        replaced = [name for name in _PRIMITIVES if gevent.is_module_patched(name)]
        if replaced:
            return "gevent", replaced
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        names = {"threading": "thread"}  # eventlet's name for it
        replaced = [
            name for name in _PRIMITIVES if eventlet.is_monkey_patched(names.get(name, name))
        ]
        if replaced:
            return "eventlet", replaced
    return "", []


def _load_yield_gil() -> Callable[[], object]:
    try:
        function = ctypes.CDLL(None).sched_yield  # releases the GIL, unlike os.sched_yield
    except (OSError, AttributeError, TypeError):  # no such function on this system
        return lambda: None
    function.argtypes = ()
    return function


# Releases the GIL for long enough that a waiting thread takes it.
yield_gil = _load_yield_gil()


class ForkAware(Protocol):
    """An object that can be registered for a fork."""

    def forget(self) -> None:
        """Drop the threads, sockets and locks of the parent process."""


# guards: nothing, it is only read and changed under the GIL by one call each; written at
# construction of a hub, read in a forked child that has one thread.
_registry: weakref.WeakSet[Any] = weakref.WeakSet()


def forget_after_fork(thing: ForkAware) -> None:
    """Have `thing.forget()` called in every child forked from now on.

    Threads do not survive a fork, and a lock that one of them held stays locked in the child
    (FAULTS 26). The registration ends with the object.
    """
    _registry.add(thing)


def _in_child() -> None:
    for thing in list(_registry):
        try:
            thing.forget()
        except Exception:  # noqa: BLE001 - the others must still be called
            logger.exception("%s.forget() failed after a fork", type(thing).__name__)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
