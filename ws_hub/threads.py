"""The threads of ws_hub: started here, named, daemonic, logged when something kills one.

Must not know what the threads do. Also the place where a fork is survived: what a
forked child must forget is registered here and forgotten in the child.
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
    "Changes",
    "ForkAware",
    "Later",
    "Visit",
    "check_one_kind",
    "check_real",
    "forget_after_fork",
    "give_way",
    "join",
    "longest_wait",
    "stacks",
    "start",
]

logger = get_logger(__name__)

_LOOK = 0.5  # seconds between the main thread's looks for signals


def start(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a daemon thread named `name` that runs `target(*args)`.

    An exception that reaches the top of the thread is logged with its traceback;
    `target` has its own `finally` for the state it owns. Raises RuntimeError when
    the system has no more threads.
    """
    thread = threading.Thread(target=_run, args=(target, args), name=name, daemon=True)
    thread.start()
    return thread


def _run(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    try:
        target(*args)
    except BaseException:  # noqa: BLE001 - the top of a thread: nobody else would say it
        logger.exception("thread %s died", threading.current_thread().name)


class Visit:
    """A part of the life of the calling thread, which can be waited for as for a thread."""

    __slots__ = ("_over", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        # guards: nothing. Set by that thread; waited for by others.
        self._over = Event()

    def end(self) -> None:
        """Wake those who wait for it."""
        self._over.set()

    def is_alive(self) -> bool:
        """Say whether it has yet to end."""
        return not self._over.is_set()

    def join(self, timeout: float) -> None:
        """Wait until it has ended, at most `timeout` seconds."""
        self._over.wait(timeout)


def join(thread: threading.Thread | Visit | None, timeout: float) -> bool:
    """Wait until a thread has ended, at most `timeout` seconds; say whether it has.

    The calling thread itself, and no thread at all, count as ended: `stop()` may be
    called from a callback.
    """
    whose = thread.thread if isinstance(thread, Visit) else thread
    if thread is None or whose is threading.current_thread():
        return True
    thread.join(max(timeout, 0.0))
    return not thread.is_alive()


class Later:
    """A thread for one who must not wait until it has started: somebody else starts it.

    Args:
        name: of the thread.
        target: what it runs.
        step: does a piece of the same work without waiting, where the system has no thread;
            False when there will be no more of it.
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
            self._how = None  # whose methods these are refers to this: no circle is left behind
        except RuntimeError as error:
            logger.warning("thread %s cannot be started: %s", self._name, error)
            return False
        finally:
            self._decided.set()
        return True

    def step(self) -> bool:
        """Do a piece of its work; what that raises ends it, and is logged."""
        assert self._how is not None
        try:
            goes_on = self._how[1]()
        except Exception:  # noqa: BLE001 - as at the top of the thread that it stands for
            logger.exception("what thread %s would have done failed", self._name)
            goes_on = False
        if not goes_on:
            self._how = None
        return goes_on

    def join(self, timeout: float) -> bool:
        """Wait until it has started and ended, or will not start."""
        deadline = time.monotonic() + timeout
        if not self._decided.wait(max(timeout, 0.0)):  # woken by `start`
            return False
        return join(self._thread, deadline - time.monotonic())


class Changes:
    """What `threading.Condition` is for, made when somebody first waits: mostly nobody does.

    A Condition by itself is a kilobyte.

    Args:
        lock: which is held by whoever calls.
    """

    __slots__ = ("_condition", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._condition: threading.Condition | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Wait for `notify_all`, without the lock meanwhile, at most `timeout` seconds."""
        if self._condition is None:
            # guards: nothing of its own; it is a way to wait under the lock that was given.
            self._condition = threading.Condition(self._lock)
        self._condition.wait(timeout)

    def notify_all(self) -> None:
        """Wake all who wait."""
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
    """Return the seconds that the calling thread may wait at a stretch.

    The main thread not for long: signal handlers run between its instructions. A signal
    that comes just before a wait begins does not interrupt it, and its handler would run
    when the wait is over: the SIGTERM of a quiet program would be heard by nobody.
    """
    here = threading.current_thread() is threading.main_thread()
    return _LOOK if here else threading.TIMEOUT_MAX


# What threads and sockets are made of.
_PRIMITIVES = ("select", "socket", "threading", "time")


def check_real(what: str) -> None:
    """Raise ConfigError where gevent or eventlet has replaced threads, sockets or clocks.

    With greenlets for threads, one client that does not read holds up all of them: what
    waits for it does so under a lock, and whoever wants that lock waits as well (FAULTS 127).
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
    """Return which library has replaced which of the primitives; it is only asked."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        replaced = [name for name in _PRIMITIVES if gevent.is_module_patched(name)]
        if replaced:
            return "gevent", replaced
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None:
        names = {"threading": "thread"}  # eventlet's own
        replaced = [
            name for name in _PRIMITIVES if eventlet.is_monkey_patched(names.get(name, name))
        ]
        if replaced:
            return "eventlet", replaced
    return "", []


def _load_give_way() -> Callable[[], object]:
    try:
        function = ctypes.CDLL(None).sched_yield  # with the GIL released, as os.sched_yield is not
    except (OSError, AttributeError, TypeError):  # no such call here
        return lambda: None
    function.argtypes = ()
    return function


# Lets go of the GIL for as long as it takes a thread that waits for it to run.
give_way = _load_give_way()


class ForkAware(Protocol):
    """What can be registered for a fork."""

    def forget(self) -> None:
        """Drop threads, sockets and locks that belong to the parent process."""


# guards: nothing, it is only read and changed under the GIL by one call each;
# written at construction of a hub, read in a forked child that has one thread.
_registry: weakref.WeakSet[Any] = weakref.WeakSet()


def forget_after_fork(thing: ForkAware) -> None:
    """Have `thing.forget()` called in every child forked from now on.

    Threads do not survive a fork, and a lock that one of them held stays locked in
    the child (FAULTS 26). The registration ends with the object.
    """
    _registry.add(thing)


def _in_child() -> None:
    for thing in list(_registry):
        try:
            thing.forget()
        except Exception:  # noqa: BLE001 - the others must forget all the same
            logger.exception("%s could not forget its parent after a fork", type(thing).__name__)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
